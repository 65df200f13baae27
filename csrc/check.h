// What the checks of the operators' arguments are made of. Each raises ValueError, TypeError or IndexError with
// "<argument> must <requirement>, got <value>". A kernel calls its operator's `check` first, once, and trusts its
// arguments from then on. Indices are compared with their bounds where they lie on the CPU.
//
// hyperloader/ops/_check.py says the same for the operators in plain PyTorch and in Triton, which must work without the
// extension; tests/ops/test_checks.py compares the two, message by message.
#pragma once

#include <initializer_list>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "ops.h"

namespace hyperloader {

// The name of an argument, or of one element of a list.
struct Name {
  const char* text;
  int64_t index = -1;
};

std::ostream& operator<<(std::ostream& out, const Name& name);

// A shape as Python writes it: (4, 16), (4,), ().
struct Shape {
  at::IntArrayRef sizes;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

std::string dtype_name(at::ScalarType dtype);
bool is_float(at::ScalarType dtype);

void check_float(const char* name, const Tensor& tensor);

// The dtype of `like`, or float32 beside a half-precision one; and its device.
void check_dtype(Name name, const Tensor& tensor, const Tensor& like);

// `groups` is the size of a first dimension before `shape`, negative where there is none.
void check_tensor(
    Name name, const Tensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like, int64_t groups = -1);

void check_shape(Name name, const Tensor& tensor, at::IntArrayRef shape);

// A kernel reads the gradient of a result as it wrote the result.
void check_same_dtype(Name name, const Tensor& tensor, at::ScalarType dtype);

// `matrix` (any, columns); messages call the number of its rows `rows`.
void check_columns(Name name, const Tensor& matrix, const char* rows, int64_t columns, const Tensor& like);

void check_one_each(const char* name, at::TensorList tensors, at::TensorList weights);

void check_eps(double eps);

// The tokens: at least one dimension, with groups also that of the sentences.
void check_x(const Tensor& x, const Optional& group);

// The number of stacked sets of weights, -1 where there is one set without a first dimension.
int64_t check_groups(Name name, const Tensor& weight, const Optional& group);

void check_group(const Optional& group, int64_t groups, const Tensor& x);

// `index` names rows of `embedding`.
void check_index(const char* name, const Tensor& index, const Tensor& embedding);

template <typename Choice>
Choice choose(const char* name, std::string_view value, std::initializer_list<std::pair<const char*, Choice>> choices) {
  for (const auto& [text, choice] : choices) {
    if (value == text) return choice;
  }
  std::string names;
  for (const auto& [text, choice] : choices) names += (names.empty() ? "" : ", ") + std::string(text);
  TORCH_CHECK_VALUE(false, name, " must be one of ", names, ", got '", value, "'");
}

}  // namespace hyperloader
