#include "conv3d_bf16.hpp"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

#include <array>
#include <cstring>
#include <utility>

#include "conv3d_bf16_rows.hpp"

namespace pluvia {

namespace {

using namespace bf16;

// Cells, or input channels, at once: with two vectors of output channels each, the accumulators, two vectors
// to multiply with and a broadcast fit the 32 registers, and so few addresses the others.
constexpr int most = 12;

__m512 add_products(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b));
}

/// Two neighbouring values in all lanes.
__m512i broadcast_pair(const std::uint16_t* values) {
  int pair;
  std::memcpy(&pair, values, sizeof pair);
  return _mm512_set1_epi32(pair);
}

// Loops over accumulators are unrolled on request, as in conv3d.cpp.

/// Sums of `Cells` neighbouring cells, pair by pair.
template <int Cells, int Vectors>
void multiply_cells(const std::uint16_t* x, const Index* offsets, const PackedBf16& packed,
                    const std::uint16_t* w, float* sums) {
  const Index stride = packed.c_in, row_stride = packed.steps * step_block,
              tile_stride = packed.tile_stride();
  const int pairs = (packed.stencil.x * packed.c_in + 1) / 2;
  __m512 acc[Cells][Vectors] = {};
  for (int row = 0; row < packed.rows(); ++row, w += row_stride) {
    const std::uint16_t *from = x + offsets[row], *weights = w;
    for (int pair = 0; pair < pairs; ++pair, from += 2, weights += 2 * tile_size) {
      __m512i weight[Vectors];
      for (int v = 0; v < Vectors; ++v) weight[v] = _mm512_loadu_si512(weights + v * tile_stride);
#pragma GCC unroll most
      for (int p = 0; p < Cells; ++p) {
        const __m512i value = broadcast_pair(from + p * stride);
        for (int v = 0; v < Vectors; ++v) acc[p][v] = add_products(acc[p][v], value, weight[v]);
      }
    }
  }
#pragma GCC unroll most
  for (int p = 0; p < Cells; ++p)
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(sums + p * at_once + v * tile_size, acc[p][v]);
}

/// Adds to the sums of `Inputs` input channels, pair of cells by pair.
template <int Inputs, int Vectors>
void correlate_inputs(const RowPair* rows, Index count, Index x_offset, Index x_stride, Index dy_first,
                      Index dy_stride, float* sums, Index sum_stride) {
  __m512 acc[Inputs][Vectors];
#pragma GCC unroll most
  for (int p = 0; p < Inputs; ++p)
    for (int v = 0; v < Vectors; ++v) acc[p][v] = _mm512_loadu_ps(sums + p * sum_stride + v * tile_size);
  for (Index i = 0; i < count; ++i) {
    const std::uint16_t *x = rows[i].x + x_offset, *dy = rows[i].dy + 2 * dy_first;
    for (Index cell = 0; cell < rows[i].cells; cell += 2, x += 2, dy += 2 * dy_stride) {
      __m512i d[Vectors];
      for (int v = 0; v < Vectors; ++v) d[v] = _mm512_loadu_si512(dy + 2 * v * tile_size);
#pragma GCC unroll most
      for (int p = 0; p < Inputs; ++p) {
        const __m512i value = broadcast_pair(x + p * x_stride);
        for (int v = 0; v < Vectors; ++v) acc[p][v] = add_products(acc[p][v], value, d[v]);
      }
    }
  }
#pragma GCC unroll most
  for (int p = 0; p < Inputs; ++p)
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(sums + p * sum_stride + v * tile_size, acc[p][v]);
}

template <int Vectors, int... Counts> constexpr auto multiply_table(std::integer_sequence<int, Counts...>) {
  return std::array{&multiply_cells<Counts + 1, Vectors>...};
}
template <int Vectors, int... Counts> constexpr auto correlate_table(std::integer_sequence<int, Counts...>) {
  return std::array{&correlate_inputs<Counts + 1, Vectors>...};
}

/// Products of pairs, added in the order of the values to lanes of output channels.
struct Avx512Bf16 {
  static constexpr Index cells_at_once = 256;
  static constexpr Index cells_a_step = 2;

  void multiply(const CellTile* tiles, int count, const Index* offsets, const PackedBf16& packed,
                const std::uint16_t* w, int channel_tiles, float* sums) const {
    static constexpr auto one = multiply_table<1>(std::make_integer_sequence<int, most>{});
    static constexpr auto two = multiply_table<2>(std::make_integer_sequence<int, most>{});
    const auto run = [&](const std::uint16_t* values, int cells, float* to) {
      const int n = even_part(cells, most);
      for (int i = 0; i < cells; i += n) {
        const auto kernel = static_cast<std::size_t>(std::min(n, cells - i) - 1);
        (channel_tiles == 1 ? one[kernel] : two[kernel])(values + i * Index{packed.c_in}, offsets, packed, w,
                                                         to + i * at_once);
      }
    };
    if (count == 2 && tiles[1].values == tiles[0].values + tile_size * Index{packed.c_in}) {
      run(tiles[0].values, tile_size + tiles[1].cells, sums);
    } else {
      for (int i = 0; i < count; ++i) run(tiles[i].values, tiles[i].cells, sums + i * tile_size * at_once);
    }
  }

  void correlate(const RowPair* rows, Index count, const InputTile* inputs, int input_tiles, Index x_stride,
                 Index dy_first, Index dy_stride, int channel_tiles, float* sums, Index sum_stride) const {
    static constexpr auto one = correlate_table<1>(std::make_integer_sequence<int, most>{});
    static constexpr auto two = correlate_table<2>(std::make_integer_sequence<int, most>{});
    for (int tile = 0; tile < input_tiles; ++tile, sums += tile_size * sum_stride) {
      const int channels = inputs[tile].channels, n = even_part(channels, most);
      for (int i = 0; i < channels; i += n) {
        const auto kernel = static_cast<std::size_t>(std::min(n, channels - i) - 1);
        (channel_tiles == 1 ? one[kernel] : two[kernel])(rows, count, inputs[tile].offset + i * x_stride,
                                                         x_stride, dy_first, dy_stride, sums + i * sum_stride,
                                                         sum_stride);
      }
    }
  }
};

} // namespace

const Bf16Operators* avx512_bf16_operators() {
  static constexpr Bf16Operators operators{&convolve_with<Avx512Bf16>, &weight_gradient_with<Avx512Bf16>};
  return __builtin_cpu_supports("avx512bf16") ? &operators : nullptr;
}

} // namespace pluvia

#else

const pluvia::Bf16Operators* pluvia::avx512_bf16_operators() {
  return nullptr;
}

#endif
