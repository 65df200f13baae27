// Transposing a matrix, in squares of vectors.
// A part of implementation.h, which includes it once for every instruction set.

// Transposes a square of vectors: blocks off the diagonal change places, of one lane, of two, and so on.
template <typename T, int kSide, int kStep>
HYPERLOADER_INLINE void exchange_blocks(V<T, kSide>* block) {
  if constexpr (kStep < kSide) {
#pragma GCC unroll 16
    for (int a = 0; a < kSide; ++a) {
      if ((a & kStep) != 0) continue;
      const V<T, kSide> upper = block[a], lower = block[a + kStep];
      block[a] = exchange<T, kStep, true, kSide>(upper, lower);
      block[a + kStep] = exchange<T, kStep, false, kSide>(upper, lower);
    }
    exchange_blocks<T, kSide, 2 * kStep>(block);
  }
}

template <typename T, int kSide>
HYPERLOADER_INLINE void transpose_square(const T* from, int64_t columns, T* const* to, int64_t i) {
  V<T, kSide> block[kSide];
#pragma GCC unroll 16
  for (int a = 0; a < kSide; ++a) block[a] = load<T, kSide>(from + a * columns);
  exchange_blocks<T, kSide, 1>(block);
#pragma GCC unroll 16
  for (int b = 0; b < kSide; ++b) store<T, kSide>(to[b] + i, block[b]);
}

// In squares; the last one overlaps its neighbour rather than the edge.
template <typename T, int kSide>
void transpose_in_squares(const T* from, int64_t rows, int64_t columns, T* const* to) {
  for (int64_t i = 0; i < rows; i += kSide) {
    const int64_t top = smaller(i, rows - kSide);
    for (int64_t j = 0; j < columns; j += kSide) {
      const int64_t left = smaller(j, columns - kSide);
      transpose_square<T, kSide>(from + top * columns + left, columns, to + left, top);
    }
  }
}

template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* const* to) {
  if (rows >= kLanes<T> && columns >= kLanes<T>) return transpose_in_squares<T, kLanes<T>>(from, rows, columns, to);
  if (rows >= 4 && columns >= 4) return transpose_in_squares<T, 4>(from, rows, columns, to);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j][i] = from[i * columns + j];
  }
}
