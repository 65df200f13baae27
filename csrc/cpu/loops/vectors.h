// Vectors of the instruction set: loads and stores, swaps of lanes, sums over lanes.
// A part of implementation.h, which includes it once for every instruction set.

#define HYPERLOADER_INLINE inline __attribute__((always_inline))

// A vector of kCount numbers, one that may lie anywhere in memory, and one of integers of the same size.
template <typename T, int kCount>
struct Vector;
template <int kCount>
struct Vector<float, kCount> {
  typedef float type __attribute__((vector_size(4 * kCount)));
  typedef float unaligned __attribute__((vector_size(4 * kCount), aligned(4), may_alias));
  typedef int32_t integer __attribute__((vector_size(4 * kCount)));
};
template <int kCount>
struct Vector<double, kCount> {
  typedef double type __attribute__((vector_size(8 * kCount)));
  typedef double unaligned __attribute__((vector_size(8 * kCount), aligned(8), may_alias));
  typedef int64_t integer __attribute__((vector_size(8 * kCount)));
};

template <typename T>
constexpr int kLanes = HYPERLOADER_VECTOR_BYTES / sizeof(T);
template <typename T, int kCount = kLanes<T>>
using V = typename Vector<T, kCount>::type;

template <typename T, int kCount = kLanes<T>>
HYPERLOADER_INLINE V<T, kCount> load(const T* from) {
  return *reinterpret_cast<const typename Vector<T, kCount>::unaligned*>(from);
}
template <typename T, int kCount = kLanes<T>>
HYPERLOADER_INLINE void store(T* to, V<T, kCount> value) {
  *reinterpret_cast<typename Vector<T, kCount>::unaligned*>(to) = value;
}
template <typename T>
HYPERLOADER_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}

// When the blocks of kStep lanes off the diagonal of (a; b) change places: where lane i of the new a (kUpper) or of the
// new b comes from, counted through a and b.
template <int kCount, int kStep, bool kUpper>
constexpr int exchanged(int lane) {
  const bool odd = (lane & kStep) != 0;
  if (kUpper) return odd ? lane - kStep + kCount : lane;
  return odd ? lane + kCount : lane + kStep;
}

template <typename T, int kStep, bool kUpper, std::size_t... kLane>
HYPERLOADER_INLINE V<T, sizeof...(kLane)> exchange(
    V<T, sizeof...(kLane)> a, V<T, sizeof...(kLane)> b, std::index_sequence<kLane...>) {
  constexpr int kCount = sizeof...(kLane);
#if defined(__clang__)
  return __builtin_shufflevector(a, b, exchanged<kCount, kStep, kUpper>(kLane)...);
#else
  return __builtin_shuffle(a, b, typename Vector<T, kCount>::integer{exchanged<kCount, kStep, kUpper>(kLane)...});
#endif
}

template <typename T, int kStep, bool kUpper, int kCount = kLanes<T>>
HYPERLOADER_INLINE V<T, kCount> exchange(V<T, kCount> a, V<T, kCount> b) {
  return exchange<T, kStep, kUpper>(a, b, std::make_index_sequence<kCount>());
}

// Lanes kStep apart added: a's sums where (lane & kStep) == 0, b's in the other lanes.
template <typename T, int kStep>
HYPERLOADER_INLINE V<T> add_pairs(V<T> a, V<T> b) {
  return exchange<T, kStep, true>(a, b) + exchange<T, kStep, false>(a, b);
}

// All lanes that are a multiple of kStep apart added.
template <typename T, int kStep>
HYPERLOADER_INLINE V<T> add_lanes_apart(V<T> v) {
  if constexpr (kStep < kLanes<T>) return add_lanes_apart<T, 2 * kStep>(add_pairs<T, kStep>(v, v));
  return v;
}

template <typename T>
HYPERLOADER_INLINE T add_lanes(V<T> v) {
  return add_lanes_apart<T, 1>(v)[0];
}

// The sums of the lanes of four vectors.
template <typename T>
HYPERLOADER_INLINE void add_lanes(V<T> a, V<T> b, V<T> c, V<T> d, T* sums) {
  if constexpr (kLanes<T> >= 4) {
    const V<T> all = add_lanes_apart<T, 4>(add_pairs<T, 2>(add_pairs<T, 1>(a, b), add_pairs<T, 1>(c, d)));
    for (int i = 0; i < 4; ++i) sums[i] = all[i];
  } else {
    sums[0] = add_lanes<T>(a);
    sums[1] = add_lanes<T>(b);
    sums[2] = add_lanes<T>(c);
    sums[3] = add_lanes<T>(d);
  }
}
