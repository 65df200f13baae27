#include "check.h"

#include <c10/core/ScalarType.h>

namespace hyperloader {
namespace {

bool is_half(at::ScalarType dtype) { return dtype == at::kBFloat16 || dtype == at::kHalf; }

void check_indices(const char* name, const Tensor& index, int64_t count, const Tensor& like) {
  check_same_dtype({name}, index, at::kLong);
  TORCH_CHECK_VALUE(
      index.device() == like.device(), name, " must be on ", like.device().str(), ", got ", index.device().str());
  if (!index.is_cpu()) return;
  const int64_t* values = index.const_data_ptr<int64_t>();
  for (int64_t i = 0, stride = index.stride(0); i < index.size(0); ++i) {
    const int64_t value = values[i * stride];
    TORCH_CHECK_INDEX(value >= 0 && value < count, name, " must be from 0 to ", count - 1, ", got ", value);
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Name& name) {
  out << name.text;
  return name.index < 0 ? out : out << '[' << name.index << ']';
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '(';
  for (size_t i = 0; i < shape.sizes.size(); ++i) out << (i == 0 ? "" : ", ") << shape.sizes[i];
  return out << (shape.sizes.size() == 1 ? ",)" : ")");
}

std::string dtype_name(at::ScalarType dtype) { return "torch." + std::string(c10::getDtypeNames(dtype).first); }

bool is_float(at::ScalarType dtype) { return is_half(dtype) || dtype == at::kFloat || dtype == at::kDouble; }

void check_float(const char* name, const Tensor& tensor) {
  TORCH_CHECK_TYPE(
      is_float(tensor.scalar_type()), name, " must be a floating tensor, got ", dtype_name(tensor.scalar_type()));
}

void check_dtype(Name name, const Tensor& tensor, const Tensor& like) {
  const at::ScalarType dtype = tensor.scalar_type(), wanted = like.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == wanted || (dtype == at::kFloat && is_half(wanted)), name, " must be ", dtype_name(wanted), ", got ",
      dtype_name(dtype));
  TORCH_CHECK_VALUE(
      tensor.device() == like.device(), name, " must be on ", like.device().str(), ", got ", tensor.device().str());
}

void check_tensor(
    Name name, const Tensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like, int64_t groups) {
  c10::SmallVector<int64_t, 3> sizes;
  if (groups >= 0) sizes.push_back(groups);
  sizes.append(shape.begin(), shape.end());
  check_shape(name, tensor, sizes);
  check_dtype(name, tensor, like);
}

void check_shape(Name name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, name, " must have shape ", Shape{shape}, ", got ", Shape{tensor.sizes()});
}

void check_same_dtype(Name name, const Tensor& tensor, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(
      tensor.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", got ", dtype_name(tensor.scalar_type()));
}

void check_columns(Name name, const Tensor& matrix, const char* rows, int64_t columns, const Tensor& like) {
  TORCH_CHECK_VALUE(
      matrix.dim() == 2 && matrix.size(1) == columns, name, " must have shape (", rows, ", ", columns, "), got ",
      Shape{matrix.sizes()});
  check_dtype(name, matrix, like);
}

void check_one_each(const char* name, at::TensorList tensors, at::TensorList weights) {
  TORCH_CHECK_VALUE(
      tensors.size() == weights.size(), name, " must have one entry per weight (", weights.size(), "), got ",
      tensors.size());
}

void check_eps(double eps) { TORCH_CHECK_VALUE(eps >= 0, "eps must be at least 0, got ", eps); }

void check_x(const Tensor& x, const Optional& group) {
  const int64_t least = group ? 2 : 1;
  TORCH_CHECK_VALUE(x.dim() >= least, "x must have at least ", least, " dimensions, got ", x.dim());
  check_float("x", x);
}

int64_t check_groups(Name name, const Tensor& weight, const Optional& group) {
  const int64_t wanted = group ? 3 : 2;
  TORCH_CHECK_VALUE(weight.dim() == wanted, name, " must have ", wanted, " dimensions, got ", weight.dim());
  return group ? weight.size(0) : -1;
}

void check_group(const Optional& group, int64_t groups, const Tensor& x) {
  if (!group) return;
  check_shape({"group"}, *group, x.sizes().slice(0, 1));
  check_indices("group", *group, groups, x);
}

void check_index(const char* name, const Tensor& index, const Tensor& embedding) {
  TORCH_CHECK_VALUE(index.dim() == 1, name, " must have 1 dimension, got ", index.dim());
  check_indices(name, index, embedding.size(0), embedding);
}

}  // namespace hyperloader
