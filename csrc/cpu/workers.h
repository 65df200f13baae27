// How the operators share out their tokens. A Worker belongs to one thread and is made from the call and its own
// memory:
//
//     prepare(group, next)         what the group's tokens share; `next` is the group after it, or none
//     tile(begin, count, ahead)    computes these tokens, all of that group; `ahead` more, of any, are computed next
//
// One that also sums over the tokens of a group has `sums()`, the memory of its sums, `clear()`, which begins them, and
// `finish(group)`, which turns them into results. A group that is cut up among threads is summed in the order of its
// tokens: results repeat.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <iterator>

#include "tokens.h"

namespace hyperloader::cpu {

template <typename T>
Tensor memory_for(int64_t count) {
  return at::empty({count}, c10::CppTypeToScalarType<T>::value);
}

template <typename Worker, typename Call, typename T>
int64_t memory_of(const Call& call) {
  Arena<T> counting(nullptr);
  const Worker without_memory(call, counting);
  return counting.used();
}

// `end` is that of the thread's whole share.
template <typename Worker>
void run_tiles(Worker& worker, const Piece& piece, int64_t end) {
  for (int64_t begin = piece.begin; begin < piece.end; begin += kTile) {
    const int64_t count = std::min(kTile, piece.end - begin);
    worker.tile(begin, count, std::min(kTile, end - begin - count));
  }
}

// Calls work(worker, piece, end) for every piece of `shares`, one share a thread, which ends with token `end`.
template <typename T, typename Worker, typename Call, typename Work>
void in_threads(const std::vector<std::vector<Piece>>& shares, const Call& call, const Work& work) {
  const int64_t size = memory_of<Worker, Call, T>(call), count = static_cast<int64_t>(shares.size());
  const Tensor memory = memory_for<T>(count * size);
  T* numbers = memory.mutable_data_ptr<T>();
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      Arena<T> arena(numbers + share * size);
      Worker worker(call, arena);
      const std::vector<Piece>& pieces = shares[share];
      for (size_t i = 0; i < pieces.size(); ++i) {
        worker.prepare(pieces[i].group, i + 1 < pieces.size() ? std::optional(pieces[i + 1].group) : std::nullopt);
        work(worker, pieces[i], pieces.back().end);
      }
    }
  });
}

template <typename T, typename Worker, typename Call>
void each_tile(const std::vector<std::vector<Piece>>& shares, const Call& call) {
  in_threads<T, Worker>(shares, call, run_tiles<Worker>);
}

// `size` numbers are summed for each group.
template <typename T, typename Worker, typename Call>
void each_group(const std::vector<std::vector<Piece>>& shares, const Call& call, int64_t size) {
  std::vector<Piece> parts;  // pieces that are not whole groups; `sums` holds theirs
  for (const auto& pieces : shares) {
    std::copy_if(
        pieces.begin(), pieces.end(), std::back_inserter(parts), [](const Piece& piece) { return !piece.whole; });
  }
  const Tensor sums = memory_for<T>(static_cast<int64_t>(parts.size()) * size);
  T* const kept = sums.mutable_data_ptr<T>();
  in_threads<T, Worker>(shares, call, [&](Worker& worker, const Piece& piece, int64_t end) {
    worker.clear();
    run_tiles(worker, piece, end);
    if (piece.whole) {
      worker.finish(piece.group);
      return;
    }
    const auto part = std::find_if(parts.begin(), parts.end(), [&](const Piece& p) { return p.begin == piece.begin; });
    std::copy_n(worker.sums(), size, kept + (part - parts.begin()) * size);
  });
  if (parts.empty()) return;

  const Tensor memory = memory_for<T>(memory_of<Worker, Call, T>(call));
  Arena<T> arena(memory.mutable_data_ptr<T>());
  Worker worker(call, arena);
  for (size_t i = 0; i < parts.size();) {
    const int64_t group = parts[i].group;
    worker.prepare(group, std::nullopt);
    std::copy_n(kept + static_cast<int64_t>(i) * size, size, worker.sums());
    for (++i; i < parts.size() && parts[i].group == group; ++i) {
      loops<T>().add(kept + static_cast<int64_t>(i) * size, size, worker.sums());
    }
    worker.finish(group);
  }
}

}  // namespace hyperloader::cpu
