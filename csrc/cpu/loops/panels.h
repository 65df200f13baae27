// How both products walk over their rows and columns, in panels that a tile holds in registers.
// A part of implementation.h and bfloat16.cpp, which name the tiles:
//
//     DotTile: kColumns of a panel, kWidth of one pass, run<M, N>(x, b, begin, end, c, ldc, next)
//     SumTile: kRows of a panel, kBlock of columns, run<M>(out, start, coefficients, step_i, step_k, in, terms, begin,
//              end)

constexpr int kPanel = 6;  // columns of a dot's panel and rows of a sum's, at most
constexpr int kDotRows = 4;
constexpr int kFetched = 4;  // rows that are fetched by one tile of the product, at most

template <typename Tile, int M, typename Row, typename T>
void dot_rows(
    const Row* const* x, const Row* const* b, int64_t columns, int64_t begin, int64_t end, T* c, int64_t ldc,
    const Row* const* next) {
  switch (columns) {
    case 1: return Tile::template run<M, 1>(x, b, begin, end, c, ldc, next);
    case 2: return Tile::template run<M, 2>(x, b, begin, end, c, ldc, next);
  }
  if constexpr (Tile::kColumns > 2) {
    switch (columns) {
      case 3: return Tile::template run<M, 3>(x, b, begin, end, c, ldc, next);
      case 4: return Tile::template run<M, 4>(x, b, begin, end, c, ldc, next);
      case 5: return Tile::template run<M, 5>(x, b, begin, end, c, ldc, next);
      case 6: return Tile::template run<M, 6>(x, b, begin, end, c, ldc, next);
    }
  }
}

// The rows `next` are brought into the second cache meanwhile, a few by every tile of the product. The rows of `b` of
// one panel and pass stay in the first cache.
template <typename Tile, typename Row, typename T>
void dot_in_panels(
    const Row* const* x, int64_t rows, const Row* const* b, int64_t columns, int64_t width, T* c, int64_t ldc,
    const Row* const* next, int64_t next_rows) {
  static_assert(Tile::kColumns <= kPanel);
  const int64_t panels = (columns + Tile::kColumns - 1) / Tile::kColumns;  // nearly equal: 25 = 5 · 5, not 4 · 6 + 1
  const int64_t tiles = panels * ((rows + kDotRows - 1) / kDotRows);
  const int64_t each = smaller<int64_t>((next_rows + tiles - 1) / tiles, kFetched);
  int64_t begin = 0;
  do {
    const int64_t end = smaller<int64_t>(begin + Tile::kWidth, width);
    for (int64_t panel = 0, n = 0, fetched = 0; panel < panels; ++panel) {
      const int64_t count = (columns - n) / (panels - panel);
      for (int64_t m = 0; m < rows; m += kDotRows, fetched += each) {
        const Row* fetch[kFetched];
        for (int64_t i = 0; i < kFetched; ++i) {  // x[m] is there already
          fetch[i] = i < each && fetched + i < next_rows ? next[fetched + i] : x[m];
        }
        T* to = c + m * ldc + n;
        switch (rows - m) {
          case 1: dot_rows<Tile, 1>(x + m, b + n, count, begin, end, to, ldc, fetch); break;
          case 2: dot_rows<Tile, 2>(x + m, b + n, count, begin, end, to, ldc, fetch); break;
          case 3: dot_rows<Tile, 3>(x + m, b + n, count, begin, end, to, ldc, fetch); break;
          default: dot_rows<Tile, 4>(x + m, b + n, count, begin, end, to, ldc, fetch);
        }
      }
      n += count;
    }
    begin = end;
  } while (begin < width);
}

// A block of the columns of `in` stays in the first cache for all rows.
template <typename Tile, typename Out, typename Coefficient, typename In>
void accumulate_in_panels(
    Out* const* out, const Out* const* start, int64_t rows, const Coefficient* coefficients, int64_t step_i,
    int64_t step_k, const In* const* in, int64_t terms, int64_t width) {
  static_assert(Tile::kRows <= kPanel);
  const int64_t panels = (rows + Tile::kRows - 1) / Tile::kRows;
  for (int64_t begin = 0; begin < width; begin += Tile::kBlock) {
    const int64_t end = smaller(begin + Tile::kBlock, width);
    for (int64_t panel = 0, i = 0; panel < panels; ++panel) {
      const int64_t count = (rows - i) / (panels - panel);
      const Out* const* from = start == nullptr ? nullptr : start + i;
      const Coefficient* of = coefficients + i * step_i;
      switch (count) {
        case 1: Tile::template run<1>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 2: Tile::template run<2>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 3: Tile::template run<3>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 4: Tile::template run<4>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 5: Tile::template run<5>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        default: Tile::template run<6>(out + i, from, of, step_i, step_k, in, terms, begin, end);
      }
      i += count;
    }
  }
}
