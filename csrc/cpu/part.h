// A mixed batch as parts, each the sentences of one group: a group's products are taken once, over all its tokens.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "../ops.h"

namespace hyperloader::cpu {

struct Part {
  int64_t group;  // whose weights; negative where they are not stacked
  Tensor rows;    // (sentences) int64 along the first dimension of the batch; undefined: all of them

  // The part's tokens, (tokens, features), in the accumulation dtype.
  Tensor take(const Tensor& batch) const {
    const Tensor taken = rows.defined() ? batch.index_select(0, rows) : batch;
    // Not -1: with no token at all it would be ambiguous.
    const int64_t tokens = c10::multiply_integers(taken.sizes().slice(0, taken.dim() - 1));
    return taken.reshape({tokens, taken.size(-1)}).to(accumulation_dtype(batch.scalar_type()));
  }

  // Write the part's tokens into `batch`, in its dtype. `batch` comes from `allocate`.
  void put(Tensor& batch, const Tensor& tokens) const {
    auto sizes = batch.sizes().vec();
    if (!rows.defined()) {
      batch = tokens.to(batch.scalar_type()).reshape(sizes);
      return;
    }
    sizes[0] = rows.size(0);
    batch.index_copy_(0, rows, tokens.to(batch.scalar_type()).reshape(sizes));
  }

  Tensor weight(const Tensor& stacked) const {
    const Tensor chosen = group < 0 ? stacked : stacked.select(0, group);
    return chosen.to(accumulation_dtype(stacked.scalar_type()));
  }

  // Write the gradient of `weight(stacked)`. `grad_stacked` holds zeros where no part is.
  void put_gradient(Tensor& grad_stacked, const Tensor& grad) const {
    if (group < 0) {
      grad_stacked = grad.to(grad_stacked.scalar_type()).contiguous();
    } else {
      grad_stacked.select(0, group).copy_(grad);
    }
  }
};

inline std::vector<Part> parts(const std::optional<Tensor>& group, int64_t groups) {
  if (!group) return {{-1, Tensor()}};
  const Tensor indices = group->contiguous();
  const int64_t* index = indices.const_data_ptr<int64_t>();
  const int64_t sentences = indices.size(0);
  std::vector<std::vector<int64_t>> rows(groups);
  for (int64_t sentence = 0; sentence < sentences; ++sentence) rows[index[sentence]].push_back(sentence);
  std::vector<Part> found;
  for (int64_t g = 0; g < groups; ++g) {
    const auto size = static_cast<int64_t>(rows[g].size());
    if (size == 0) continue;
    Tensor of_group;
    if (size < sentences) {
      of_group = at::empty({size}, indices.options());
      std::copy(rows[g].begin(), rows[g].end(), of_group.mutable_data_ptr<int64_t>());
    }
    found.push_back({g, of_group});
  }
  return found;
}

}  // namespace hyperloader::cpu
