#include "tokens.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace hyperloader::cpu {

namespace {
constexpr int64_t kWorthAThread = int64_t{1} << 20;  // multiplications, tens of microseconds
constexpr int64_t kConverted = int64_t{1} << 15;     // numbers, likewise worth a thread

bool is_half(at::ScalarType dtype) { return dtype == at::kBFloat16 || dtype == at::kHalf; }

Half half_of(at::ScalarType dtype) { return dtype == at::kBFloat16 ? Half::kBFloat16 : Half::kFloat16; }

}  // namespace

Tensor as_dtype(const Tensor& tensor, at::ScalarType dtype) {
  const at::ScalarType from = tensor.scalar_type();
  if (from == dtype) return tensor;
  const bool widens = is_half(from) && dtype == at::kFloat, narrows = from == at::kFloat && is_half(dtype);
  if (!tensor.is_contiguous() || !(widens || narrows)) return tensor.to(dtype);
  const Tensor converted = at::empty(tensor.sizes(), tensor.options().dtype(dtype));
  const auto* numbers = static_cast<const char*>(tensor.const_data_ptr());
  auto* to = static_cast<char*>(converted.mutable_data_ptr());
  at::parallel_for(0, tensor.numel(), kConverted, [&](int64_t begin, int64_t end) {
    const void* const source = numbers + begin * static_cast<int64_t>(tensor.element_size());
    void* const target = to + begin * static_cast<int64_t>(converted.element_size());
    if (widens) {
      loops<float>().widen(source, half_of(from), static_cast<float*>(target), end - begin);
    } else {
      loops<float>().narrow(static_cast<const float*>(source), target, half_of(dtype), end - begin);
    }
  });
  return converted;
}

Tokens::Tokens(const Tensor& x, const std::optional<Tensor>& group, int64_t groups) : first_(groups + 1, 0) {
  const int64_t rows = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  if (!group) {
    per_sentence_ = 1;
    first_[1] = rows;
    return;
  }
  const int64_t sentences = x.size(0), stride = group->stride(0);
  const int64_t* index = group->const_data_ptr<int64_t>();
  per_sentence_ = sentences == 0 ? 1 : rows / sentences;
  for (int64_t sentence = 0; sentence < sentences; ++sentence) first_[index[sentence * stride] + 1] += 1;
  for (int64_t g = 0; g < groups; ++g) first_[g + 1] += first_[g];
  std::vector<int64_t> next(first_.begin(), first_.end() - 1);
  sentences_.resize(sentences);
  for (int64_t sentence = 0; sentence < sentences; ++sentence) {
    sentences_[next[index[sentence * stride]]++] = sentence;
  }
  for (int64_t& first : first_) first *= per_sentence_;
}

int64_t Tokens::groups_present() const {
  int64_t present = 0;
  for (int64_t group = 0; group < groups(); ++group) present += empty(group) ? 0 : 1;
  return present;
}

void Tokens::rows(int64_t begin, int64_t end, int64_t* rows) const {
  for (int64_t token = begin; token < end; ++token) {
    *rows++ = sentences_.empty() ? token : sentences_[token / per_sentence_] * per_sentence_ + token % per_sentence_;
  }
}

std::vector<std::vector<Piece>> Tokens::share(int64_t work) const {
  const int64_t worth = std::max<int64_t>(count() * work / kWorthAThread, 1);
  const int64_t shares = std::min<int64_t>(worth, at::in_parallel_region() ? 1 : at::get_num_threads());
  std::vector<std::vector<Piece>> found(shares);
  int64_t group = 0, begin = 0;
  for (int64_t i = 0; i < shares; ++i) {
    // Whole tiles, as far as groups allow: shares end where a tile would.
    const int64_t end = i + 1 == shares ? count() : round_up(count() * (i + 1) / shares, kTile);
    while (begin < std::min(end, count())) {
      while (first_[group + 1] <= begin) ++group;
      const int64_t until = std::min({end, first_[group + 1], count()});
      const bool whole = begin == first_[group] && until == first_[group + 1];
      found[i].push_back({group, begin, until, whole});
      begin = until;
    }
  }
  return found;
}

}  // namespace hyperloader::cpu
