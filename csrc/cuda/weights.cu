#include "launch.h"
#include "weights.cuh"

namespace hyperloader::cuda {
namespace {

template <typename C>
__global__ void __launch_bounds__(kThreads) lay_out_kernel(const __grid_constant__ Layouts layouts) {
  using S = Sum<C>;
  const Layout& layout = layouts.of[blockIdx.y];
  const int64_t group = blockIdx.z, size = layout.row_count * layout.column_count;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < size; i += int64_t(gridDim.x) * kThreads) {
    const int64_t to_row = i / layout.column_count, to_column = i % layout.column_count;
    const int64_t row = to_row - layout.first_row, column = to_column - layout.first_column;
    S value = 0;
    if (row >= 0 && row < layout.rows && column >= 0 && column < layout.columns) {
      value =
          layout.from.load<S>(group * layout.group_stride + row * layout.row_stride + column * layout.column_stride);
      if (layout.factor.data != nullptr) {
        value *= layout.factor.load<S>(
            group * layout.factor_group_stride + (layout.factor_of_rows ? row : column) * layout.factor_stride);
      }
    }
    const int64_t to = group * layout.to_group_stride + to_row * layout.to_row_stride + to_column;
    if (layout.sums) {
      static_cast<S*>(layout.to)[to] = value;
    } else {
      static_cast<C*>(layout.to)[to] = static_cast<C>(value);
    }
  }
}

}  // namespace

Layout Matrix::layout(void* to, bool sums, int64_t row_count, int64_t column_count) const {
  const bool vector = tensor.dim() == (grouped ? 2 : 1);
  Layout found{};
  found.from = {tensor.const_data_ptr(), tensor.scalar_type()};
  found.group_stride = grouped ? tensor.stride(0) : 0;
  found.rows = vector ? 1 : tensor.size(-2);
  found.columns = tensor.size(-1);
  found.row_stride = vector ? 0 : tensor.stride(-2);
  found.column_stride = tensor.stride(-1);
  if (transposed) {
    std::swap(found.rows, found.columns);
    std::swap(found.row_stride, found.column_stride);
  }
  found.to = to;
  found.sums = sums;
  found.row_count = row_count;
  found.column_count = column_count;
  found.to_row_stride = column_count;
  found.to_group_stride = row_count * column_count;
  return found;
}

Tokens tokens_of(const Tensor& x, const Optional& group, int64_t groups, int height) {
  const at::IntArrayRef sizes = x.sizes().slice(0, x.dim() - 1);
  Tokens found{};
  found.sentences = group ? sizes[0] : 1;
  found.tokens = c10::multiply_integers(group ? sizes.slice(1) : sizes);
  found.group = group ? group->const_data_ptr<int64_t>() : nullptr;
  found.groups = groups;
  found.height = height;
  found.tiles_of_sentence = (found.tokens + height - 1) / height;
  TORCH_CHECK_VALUE(groups > 0 || found.tiles() == 0, "group must name one of the stacked weights, got none of them");
  return found;
}

template <typename C>
void lay_out(const Layouts& layouts, int64_t groups) {
  constexpr int64_t kNumbers = 4 * kThreads, kMostBlocks = 1024;  // of a block; of a matrix
  int64_t most = 0;
  for (int i = 0; i < layouts.count; ++i) most = std::max(most, layouts.of[i].row_count * layouts.of[i].column_count);
  const int64_t blocks = std::min((most + kNumbers - 1) / kNumbers, kMostBlocks);
  launch(lay_out_kernel<C>, dim3(blocks, layouts.count, groups), dim3(kThreads), 0, layouts);
}

template void lay_out<BFloat16>(const Layouts&, int64_t);
template void lay_out<Half>(const Layouts&, int64_t);
template void lay_out<float>(const Layouts&, int64_t);
template void lay_out<double>(const Layouts&, int64_t);

}  // namespace hyperloader::cuda
