// Stands in for csrc/cuda/mma.cuh: the tensor cores' product by the fragments that the PTX ISA documents.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace hyperloader::cuda {

// Of one lane, as mma.m16n8k16 takes them.
struct Fragments {
  float (&c)[4];
  const uint32_t (&a)[4], (&b)[2];
};

template <typename T>
void multiply_fragments(const cuda_host::Operands& lanes) {
  float a[16][16], b[16][8];
  const auto halves = [](uint32_t packed, int half) {
    return static_cast<float>(T(static_cast<uint16_t>(packed >> 16 * half), T::from_bits()));
  };
  for (int lane = 0; lane < cuda_host::kLanes; ++lane) {
    const auto& own = *static_cast<const Fragments*>(lanes[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        a[group + (i % 2 == 0 ? 0 : 8)][2 * in_group + half + (i < 2 ? 0 : 8)] = halves(own.a[i], half);
      }
      for (int i = 0; i < 2; ++i) b[2 * in_group + half + 8 * i][group] = halves(own.b[i], half);
    }
  }
  for (int lane = 0; lane < cuda_host::kLanes; ++lane) {
    const auto& own = *static_cast<const Fragments*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) own.c[i] += a[row][k] * b[k][column];
    }
  }
}

template <typename T>
void tensor_core_product(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
  static_assert(std::is_same_v<T, c10::BFloat16> || std::is_same_v<T, c10::Half>);
  Fragments own{c, a, b};
  cuda_host::collective("mma.m16n8k16", 0xffffffffu, &own, multiply_fragments<T>, false, {file, line});
}

// Of one lane, as ldmatrix takes them: a row of a matrix, and a register of each of the four.
struct alignas(16) MatrixRow {
  uint32_t numbers[4], found[4];
};

inline uint4 load_matrices_by(
    const void* row, void (*exchange)(const cuda_host::Operands&), const char* name, cuda_host::Place place) {
  MatrixRow own{};
  *reinterpret_cast<uint4*>(own.numbers) = *static_cast<const uint4*>(row);
  cuda_host::collective(name, 0xffffffffu, &own, exchange, false, place);
  return {own.found[0], own.found[1], own.found[2], own.found[3]};
}

inline uint4 load_matrices(const void* row, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto exchange = [](const cuda_host::Operands& lanes) {
    for (int lane = 0; lane < cuda_host::kLanes; ++lane) {
      auto& own = *static_cast<MatrixRow*>(lanes[lane]);
      for (int i = 0; i < 4; ++i) {
        own.found[i] = static_cast<const MatrixRow*>(lanes[8 * i + lane / 4])->numbers[lane % 4];
      }
    }
  };
  return load_matrices_by(row, exchange, "ldmatrix", {file, line});
}

// .trans: of two rows the number of the lane's column.
inline uint4 load_matrices_across(const void* row, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto exchange = [](const cuda_host::Operands& lanes) {
    for (int lane = 0; lane < cuda_host::kLanes; ++lane) {
      auto& own = *static_cast<MatrixRow*>(lanes[lane]);
      const int column = lane / 4;
      const auto number = [&](int row) {
        return static_cast<const MatrixRow*>(lanes[row])->numbers[column / 2] >> 16 * (column % 2) & 0xffffu;
      };
      for (int i = 0; i < 4; ++i) {
        const int first = 8 * i + lane % 4 * 2;
        own.found[i] = number(first) | number(first + 1) << 16;
      }
    }
  };
  return load_matrices_by(row, exchange, "ldmatrix.trans", {file, line});
}

inline uint32_t take_halves(uint32_t first, uint32_t second, int half) {
  return half == 0 ? (first & 0xffffu) | second << 16 : first >> 16 | (second & 0xffff0000u);
}

}  // namespace hyperloader::cuda
