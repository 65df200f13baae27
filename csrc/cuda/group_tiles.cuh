// The tiles of one group among all of a batch.
#pragma once

#include "tiles.cuh"

namespace hyperloader::cuda {

// A warp's place among the tiles [begin, end) that belong to a group: of every eight tiles in a row one is its own. All
// lanes walk together; each looks at the group of another sentence, so that a whole stretch of others costs one look.
class GroupTiles {
 public:
  __device__ GroupTiles(const Tokens& tokens, int group, int begin, int end)
      : tokens_(tokens),
        group_(group),
        end_(end),
        phase_(begin + warp_of_block()),
        tiles_(static_cast<int>(tokens.tiles_of_sentence)),
        sentence_(end > begin ? static_cast<int>(tokens.sentence_of(begin)) : 0),
        tile_(begin + warp_of_block() - sentence_ * tiles_) {
    look();
    settle();
  }

  __device__ bool exists() const { return sentence_ * tiles_ + tile_ < end_; }
  __device__ int64_t first() const { return sentence_ * tokens_.tokens + tile_ * kTokens; }
  __device__ int count() const {
    const int64_t left = tokens_.tokens - int64_t{tile_} * kTokens;
    return left < kTokens ? static_cast<int>(left) : kTokens;
  }
  __device__ void advance() {
    tile_ += kWarps;
    settle();
  }

 private:
  // Whose the 32 sentences from this one on are.
  __device__ void look() {
    looked_ = sentence_;
    if (tokens_.group == nullptr) {
      own_ = kAllLanes;
      return;
    }
    const int sentence = sentence_ + lane_of_warp();
    own_ = __ballot_sync(kAllLanes, sentence < tokens_.sentences && tokens_.group_of_sentence(sentence) == group_);
  }
  __device__ void settle() {
    while (exists()) {
      if (sentence_ - looked_ >= 32) look();
      if (tile_ < tiles_ && own_ >> (sentence_ - looked_) & 1) return;
      ++sentence_;
      tile_ = (phase_ - sentence_ * tiles_) & (kWarps - 1);
    }
  }

  const Tokens& tokens_;
  int group_, end_, phase_, tiles_, sentence_, tile_, looked_;
  unsigned own_;
};

}  // namespace hyperloader::cuda
