// Checks of the operators' arguments; hyperloader/ops/_check.py says the same for the operators in plain PyTorch.
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <ostream>

#include "ops.h"

namespace hyperloader {
namespace {

// The name of an argument, or of one element of a list.
struct Name {
  const char* text;
  int64_t index = -1;
};

std::ostream& operator<<(std::ostream& out, const Name& name) {
  out << name.text;
  return name.index < 0 ? out : out << '[' << name.index << ']';
}

// A shape as Python writes it: (4, 16), (4,), ().
struct Shape {
  at::IntArrayRef sizes;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '(';
  for (size_t i = 0; i < shape.sizes.size(); ++i) out << (i == 0 ? "" : ", ") << shape.sizes[i];
  return out << (shape.sizes.size() == 1 ? ",)" : ")");
}

std::string dtype_name(at::ScalarType dtype) { return "torch." + std::string(c10::getDtypeNames(dtype).first); }

bool is_half(at::ScalarType dtype) { return dtype == at::kBFloat16 || dtype == at::kHalf; }
bool is_float(at::ScalarType dtype) { return is_half(dtype) || dtype == at::kFloat || dtype == at::kDouble; }

void check_float(const char* name, const Tensor& tensor) {
  TORCH_CHECK_TYPE(
      is_float(tensor.scalar_type()), name, " must be a floating tensor, got ", dtype_name(tensor.scalar_type()));
}

// The dtype of `like`, or float32 beside a half-precision one; and its device.
void check_dtype(Name name, const Tensor& tensor, const Tensor& like) {
  const at::ScalarType dtype = tensor.scalar_type(), wanted = like.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == wanted || (dtype == at::kFloat && is_half(wanted)), name, " must be ", dtype_name(wanted), ", got ",
      dtype_name(dtype));
  TORCH_CHECK_VALUE(
      tensor.device() == like.device(), name, " must be on ", like.device().str(), ", got ", tensor.device().str());
}

// `groups` is the size of a first dimension before `shape`, negative where there is none.
void check_tensor(
    Name name, const Tensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like, int64_t groups = -1) {
  c10::SmallVector<int64_t, 3> sizes;
  if (groups >= 0) sizes.push_back(groups);
  sizes.append(shape.begin(), shape.end());
  TORCH_CHECK_VALUE(
      tensor.sizes() == at::IntArrayRef(sizes), name, " must have shape ", Shape{sizes}, ", got ",
      Shape{tensor.sizes()});
  check_dtype(name, tensor, like);
}

// A kernel reads the gradient of a result as it wrote the result.
void check_grad_dtype(Name name, const Tensor& grad, const Tensor& x) {
  TORCH_CHECK_TYPE(
      grad.scalar_type() == x.scalar_type(), name, " must be ", dtype_name(x.scalar_type()), ", got ",
      dtype_name(grad.scalar_type()));
}

template <typename Choice>
Choice choose(const char* name, std::string_view value, std::initializer_list<std::pair<const char*, Choice>> choices) {
  for (const auto& [text, choice] : choices) {
    if (value == text) return choice;
  }
  std::string names;
  for (const auto& [text, choice] : choices) names += (names.empty() ? "" : ", ") + std::string(text);
  TORCH_CHECK_VALUE(false, name, " must be one of ", names, ", got '", value, "'");
}

void check_x(const Tensor& x, const std::optional<Tensor>& group) {
  const int64_t least = group ? 2 : 1;
  TORCH_CHECK_VALUE(x.dim() >= least, "x must have at least ", least, " dimensions, got ", x.dim());
  check_float("x", x);
}

// The number of stacked sets of weights, -1 where there is one set without a first dimension.
int64_t check_groups(Name name, const Tensor& weight, const std::optional<Tensor>& group) {
  const int64_t wanted = group ? 3 : 2;
  TORCH_CHECK_VALUE(weight.dim() == wanted, name, " must have ", wanted, " dimensions, got ", weight.dim());
  return group ? weight.size(0) : -1;
}

void check_indices(const char* name, const Tensor& index, int64_t count, const Tensor& like) {
  TORCH_CHECK_TYPE(
      index.scalar_type() == at::kLong, name, " must be torch.int64, got ", dtype_name(index.scalar_type()));
  TORCH_CHECK_VALUE(
      index.device() == like.device(), name, " must be on ", like.device().str(), ", got ", index.device().str());
  if (!index.is_cpu()) return;
  const int64_t* values = index.const_data_ptr<int64_t>();
  for (int64_t i = 0, stride = index.stride(0); i < index.size(0); ++i) {
    const int64_t value = values[i * stride];
    TORCH_CHECK_INDEX(value >= 0 && value < count, name, " must be from 0 to ", count - 1, ", got ", value);
  }
}

void check_group(const std::optional<Tensor>& group, int64_t groups, const Tensor& x) {
  if (!group) return;
  TORCH_CHECK_VALUE(
      group->dim() == 1 && group->size(0) == x.size(0), "group must have shape (", x.size(0), ",), got ",
      Shape{group->sizes()});
  check_indices("group", *group, groups, x);
}

// `matrix` (any, columns), of which `what` is the name of the rows' number.
void check_columns(const char* name, const Tensor& matrix, const char* what, int64_t columns, const Tensor& like) {
  TORCH_CHECK_VALUE(
      matrix.dim() == 2 && matrix.size(1) == columns, name, " must have shape (", what, ", ", columns, "), got ",
      Shape{matrix.sizes()});
  check_dtype({name}, matrix, like);
}

void check_index(const char* name, const Tensor& index, const Tensor& embedding) {
  TORCH_CHECK_VALUE(index.dim() == 1, name, " must have 1 dimension, got ", index.dim());
  check_indices(name, index, embedding.size(0), embedding);
}

void check_present(const char* name, const Tensor& tensor, bool wanted, std::string_view norm) {
  TORCH_CHECK_VALUE(
      tensor.defined() == wanted, name, " must be ", wanted ? "given" : "None", " for norm '", norm, "', got ",
      wanted ? "None" : "a tensor");
}

void check_one_each(const char* name, at::TensorList tensors, at::TensorList weights) {
  TORCH_CHECK_VALUE(
      tensors.size() == weights.size(), name, " must have one entry per weight (", weights.size(), "), got ",
      tensors.size());
}

void check_heads(const Tensor& condition, at::TensorList weights, const c10::List<bool>& has_bias) {
  TORCH_CHECK_VALUE(condition.dim() == 2, "condition must have 2 dimensions, got ", condition.dim());
  check_float("condition", condition);
  TORCH_CHECK_VALUE(
      has_bias.size() == weights.size(), "biases must have one entry per weight (", weights.size(), "), got ",
      has_bias.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK_VALUE(
        weights[i].dim() == 2 && weights[i].size(1) == condition.size(1), "weights[", i, "] must have shape (n, ",
        condition.size(1), "), got ", Shape{weights[i].sizes()});
    check_dtype({"weights", static_cast<int64_t>(i)}, weights[i], condition);
  }
}

}  // namespace

void check_condition(const ConditionWeights& weights, at::ArrayRef<double> scales, double eps) {
  const Tensor& task = weights.task_embedding;
  TORCH_CHECK_VALUE(task.dim() == 2, "task_embedding must have 2 dimensions, got ", task.dim());
  check_float("task_embedding", task);
  const int64_t size = task.size(1);
  check_columns("layer_embedding", weights.layer_embedding, "any", size, task);
  check_columns("position_embedding", weights.position_embedding, "any", size, task);
  check_columns("first_weight", weights.first_weight, "hidden", 3 * size, task);
  const int64_t hidden = weights.first_weight.size(0);
  check_tensor({"first_bias"}, weights.first_bias, {hidden}, task);
  check_columns("second_weight", weights.second_weight, "condition_dim", hidden, task);
  const int64_t condition_dim = weights.second_weight.size(0);
  check_tensor({"second_bias"}, weights.second_bias, {condition_dim}, task);
  check_tensor({"norm_weight"}, weights.norm_weight, {condition_dim}, task);
  check_tensor({"norm_bias"}, weights.norm_bias, {condition_dim}, task);
  TORCH_CHECK_VALUE(scales.size() == 3, "scales must have 3 entries, got ", scales.size());
  TORCH_CHECK_VALUE(eps >= 0, "eps must be at least 0, got ", eps);
  check_index("layers", weights.layers, weights.layer_embedding);
  check_index("positions", weights.positions, weights.position_embedding);
}

void check_condition_backward(const Tensor& grad, const ConditionWeights& weights) {
  const std::array<int64_t, 4> sizes{
      weights.positions.size(0), weights.layers.size(0), weights.task_embedding.size(0), weights.norm_bias.size(0)};
  TORCH_CHECK_VALUE(
      grad.sizes() == at::IntArrayRef(sizes), "grad must have shape ", Shape{sizes}, ", got ", Shape{grad.sizes()});
}

void check_generate(
    const Tensor& condition, at::TensorList weights, at::TensorList biases, const c10::List<bool>& has_bias,
    std::optional<at::ScalarType> dtype) {
  check_heads(condition, weights, has_bias);
  TORCH_CHECK_TYPE(!dtype || is_float(*dtype), "dtype must be a floating dtype, got ", dtype_name(*dtype));
  const auto present = static_cast<size_t>(std::count(has_bias.begin(), has_bias.end(), true));
  TORCH_CHECK_VALUE(
      biases.size() == present, "biases must have one entry per true has_bias (", present, "), got ", biases.size());
  for (size_t i = 0, next = 0; i < weights.size(); ++i) {
    if (has_bias.get(i)) {
      check_tensor({"biases", static_cast<int64_t>(i)}, biases[next++], {weights[i].size(0)}, condition);
    }
  }
}

void check_generate_backward(
    at::TensorList grads, const Tensor& condition, at::TensorList weights, const c10::List<bool>& has_bias) {
  check_heads(condition, weights, has_bias);
  check_one_each("grads", grads, weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::array<int64_t, 2> sizes{condition.size(0), weights[i].size(0)};
    TORCH_CHECK_VALUE(
        grads[i].sizes() == at::IntArrayRef(sizes), "grads[", i, "] must have shape ", Shape{sizes}, ", got ",
        Shape{grads[i].sizes()});
  }
}

AdapterOptions check_adapter(
    const Tensor& x, const AdapterWeights& weights, const std::optional<Tensor>& group, std::string_view norm,
    std::string_view activation, double eps) {
  AdapterOptions options{};
  options.norm = choose<Norm>(
      "norm", norm, {{"post", Norm::kPost}, {"pre", Norm::kPre}, {"both", Norm::kBoth}, {"none", Norm::kNone}});
  options.activation = choose<Activation>(
      "activation", activation,
      {{"gelu_new", Activation::kGeluNew},
       {"gelu", Activation::kGelu},
       {"relu", Activation::kRelu},
       {"silu", Activation::kSilu}});
  TORCH_CHECK_VALUE(eps >= 0, "eps must be at least 0, got ", eps);
  check_x(x, group);
  const int64_t groups = check_groups({"down_weight"}, weights.down_weight, group);
  const int64_t hidden = x.size(-1), bottleneck = weights.down_weight.size(-2);
  TORCH_CHECK_VALUE(hidden >= 1, "x must have at least one hidden unit, got 0");
  TORCH_CHECK_VALUE(bottleneck >= 1, "down_weight must have at least one bottleneck unit, got 0");
  check_tensor({"down_weight"}, weights.down_weight, {bottleneck, hidden}, x, groups);
  check_tensor({"down_bias"}, weights.down_bias, {bottleneck}, x, groups);
  check_tensor({"up_weight"}, weights.up_weight, {hidden, bottleneck}, x, groups);
  check_tensor({"up_bias"}, weights.up_bias, {hidden}, x, groups);
  const bool one = options.norm != Norm::kNone, two = options.norm == Norm::kBoth;
  const std::tuple<const char*, const Tensor&, bool> norms[] = {
      {"norm_weight", weights.norm_weight, one},
      {"norm_bias", weights.norm_bias, one},
      {"pre_norm_weight", weights.pre_norm_weight, two},
      {"pre_norm_bias", weights.pre_norm_bias, two},
  };
  for (const auto& [name, tensor, wanted] : norms) {
    check_present(name, tensor, wanted, norm);
    if (wanted) check_tensor({name}, tensor, {hidden}, x, groups);
  }
  check_group(group, groups, x);
  options.hidden = hidden;
  options.bottleneck = bottleneck;
  options.groups = std::max<int64_t>(groups, group ? 0 : 1);
  return options;
}

void check_adapter_backward(const Tensor& grad, const Tensor& x, const Tensor& pre, const AdapterOptions& options) {
  TORCH_CHECK_VALUE(
      grad.sizes() == x.sizes(), "grad must have shape ", Shape{x.sizes()}, ", got ", Shape{grad.sizes()});
  check_grad_dtype({"grad"}, grad, x);
  auto sizes = x.sizes().vec();
  sizes.back() = options.bottleneck;
  TORCH_CHECK_VALUE(
      pre.sizes() == at::IntArrayRef(sizes), "pre must have shape ", Shape{sizes}, ", got ", Shape{pre.sizes()});
  const at::ScalarType wanted = accumulate_dtype(x.scalar_type());
  TORCH_CHECK_TYPE(
      pre.scalar_type() == wanted, "pre must be ", dtype_name(wanted), ", got ", dtype_name(pre.scalar_type()));
}

int64_t check_lora_linears(
    const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList lora_A, at::TensorList lora_B,
    const std::optional<Tensor>& group) {
  check_x(x, group);
  TORCH_CHECK_VALUE(!weights.empty(), "weights must have at least one entry, got 0");
  if (!biases.empty()) check_one_each("biases", biases, weights);
  check_one_each("lora_A", lora_A, weights);
  check_one_each("lora_B", lora_B, weights);
  const int64_t in_features = x.size(-1);
  const bool one = weights.size() == 1;
  int64_t groups = -1;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t index = one ? -1 : static_cast<int64_t>(i);
    const Name weight{one ? "weight" : "weights", index}, down{"lora_A", index};
    TORCH_CHECK_VALUE(
        weights[i].dim() == 2 && weights[i].size(1) == in_features, weight, " must have shape (out_features, ",
        in_features, "), got ", Shape{weights[i].sizes()});
    check_dtype(weight, weights[i], x);
    TORCH_CHECK_TYPE(
        weights[i].scalar_type() == weights[0].scalar_type(), weight, " must be ", dtype_name(weights[0].scalar_type()),
        " like weights[0], got ", dtype_name(weights[i].scalar_type()));
    const int64_t out_features = weights[i].size(0);
    if (!biases.empty()) check_tensor({one ? "bias" : "biases", index}, biases[i], {out_features}, x);
    const int64_t found = check_groups(down, lora_A[i], group), rank = lora_A[i].size(-2);
    TORCH_CHECK_VALUE(rank >= 1, down, " must have at least rank 1, got rank 0");
    if (i == 0) groups = found;
    check_tensor(down, lora_A[i], {rank, in_features}, x, groups);
    check_tensor({"lora_B", index}, lora_B[i], {out_features, rank}, x, groups);
  }
  check_group(group, groups, x);
  return std::max<int64_t>(groups, group ? 0 : 1);
}

void check_lora_linears_backward(
    at::TensorList grads, const Tensor& x, at::TensorList weights, const c10::List<bool>& needed) {
  check_one_each("grads", grads, weights);
  auto sizes = x.sizes().vec();
  for (size_t i = 0; i < weights.size(); ++i) {
    const Name name{"grads", static_cast<int64_t>(i)};
    sizes.back() = weights[i].size(0);
    TORCH_CHECK_VALUE(
        grads[i].sizes() == at::IntArrayRef(sizes), name, " must have shape ", Shape{sizes}, ", got ",
        Shape{grads[i].sizes()});
    check_grad_dtype(name, grads[i], x);
  }
  TORCH_CHECK_VALUE(needed.size() == 5, "needed must have 5 entries, got ", needed.size());
}

}  // namespace hyperloader
