#pragma once
// The convolution in bf16 and its weight gradient around the kernels of one kind of unit; for processors with
// AVX512_BF16, which rounds. Such Kernels are made for each task of a thread and provide
//
//   multiply   sums over the taps and input channels of two tiles of 16 cells by two of output channels;
//   correlate  adds to the sums over cells of two tiles of input channels by two of output channels;
//   cells_at_once  how many cells correlate is best given: as many as a cache holds, or all.
//
// Either must add what makes one sum in an order that depends on nothing but the extents it is told.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "conv3d_bf16.hpp"
#include "conv3d_rows.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"

namespace pluvia::bf16 {

constexpr int step_values = PackedBf16::step_values, tile_size = PackedBf16::tile_size;
constexpr Index step_block = PackedBf16::step_block;
constexpr Index at_once = 2 * tile_size; ///< cells and channels that multiply sums, a tile or two of each

/// At most 16 neighbouring cells of one row, the first of them `first`: their values follow each other, C_in
/// each.
struct CellTile {
  Index row, first;
  int cells;
  const std::uint16_t* values;
};
/// Input channels of one tap, at most 16: where they lie from the start of a row, one row of cells each.
struct InputTile {
  Index offset;
  int channels;
};
/// Neighbouring cells: x turned around [C_in, cells], dy in pairs [pairs of cells, C_out, 2], zeros beyond
/// them.
struct RowPair {
  const std::uint16_t *x, *dy;
  Index cells;
};

using Half = std::unique_ptr<std::uint16_t[]>;

inline Half allocate(Index values) {
  return Half(new std::uint16_t[static_cast<std::size_t>(values)]);
}

/// Room for values of cells that tiles read whole. A last step meets weights of zero beyond the last cell,
/// where values must be finite: zeros. A last tile reads cells that are not there, whose sums are dropped:
/// anything.
inline Half allocate_cells(Index values, Index channels) {
  Half out = allocate(values + step_values + tile_size * channels);
  std::fill_n(out.get() + values, step_values, std::uint16_t{0});
  return out;
}

inline void store_rounded(std::uint16_t* to, __m512 values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), std::bit_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

inline __mmask16 first_lanes(Index n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << n) - 1);
}

inline void round_values(const float* from, Index count, std::uint16_t* to) {
  for (Index i = 0; i < count; i += 16)
    store_rounded(to + i, _mm512_maskz_loadu_ps(first_lanes(count - i), from + i));
}

/// All values of a tensor, margins too, at the same places.
inline Half rounded(const Tensor& x) {
  const auto from = x.storage();
  const auto values = static_cast<Index>(from.size());
  Half out = allocate_cells(round_up(values, 16), x.shape().c);
  constexpr Index piece = 16384;
  parallel_for((values + piece - 1) / piece, [&](Index i) {
    round_values(from.data() + i * piece, std::min(piece, values - i * piece), out.get() + i * piece);
  });
  return out;
}

/// Sixteen channels of two neighbouring cells, rounded: side by side in each lane.
inline __m512i pair_cells(__m512 first, __m512 second) {
  // Words of the first cell's and the second cell's channels, in turn.
  constexpr auto order = [] {
    std::array<std::uint16_t, 32> out{};
    for (std::size_t i = 0; i < 32; ++i) out[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 16);
    return out;
  }();
  return _mm512_permutexvar_epi16(std::bit_cast<__m512i>(order),
                                  std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}

/// Channels c to c + 15 of cell i of a row of `cells`, [cells, channels]; zeros where there are none.
inline __m512 load_channels(const float* row, Index cells, Index channels, Index i, Index c) {
  return i < cells ? _mm512_maskz_loadu_ps(first_lanes(channels - c), row + i * channels + c)
                   : _mm512_setzero_ps();
}

/// Rows of x turned around for the weight gradient: [rows, C_in padded to tiles, cells padded to steps].
struct TurnedRows {
  Half data;
  Index channels, cells; ///< padded
  const std::uint16_t* row(Index i) const { return data.get() + i * channels * cells; }
};

/// start(i) is the first of cells_of(i) cells of row i; zeros follow them, up to `most` at least.
template <class Start, class Cells>
TurnedRows turn_rows(Index count, Index most, Index c_in, Start&& start, Cells&& cells_of) {
  TurnedRows out{{}, round_up(c_in, tile_size), round_up(most, step_values)};
  out.data = allocate(count * out.channels * out.cells);
  parallel_for(count, [&](Index i) {
    const float* from = start(i);
    const Index cells = cells_of(i);
    std::uint16_t* to = out.data.get() + i * out.channels * out.cells;
    for (Index c = 0; c < out.channels; c += tile_size)
      for (Index x = 0; x < out.cells; x += step_values) {
        simd::Float16 block[16]; // of pairs; unrolled, it stays in registers
#pragma GCC unroll 16
        for (Index j = 0; j < 16; ++j)
          block[j] =
              std::bit_cast<simd::Float16>(pair_cells(load_channels(from, cells, c_in, x + 2 * j, c),
                                                      load_channels(from, cells, c_in, x + 2 * j + 1, c)));
        simd::turn(block);
#pragma GCC unroll 16
        for (Index j = 0; j < tile_size; ++j) _mm512_storeu_ps(to + (c + j) * out.cells + x, block[j]);
      }
  });
  return out;
}

/// Rows of dy with the values of two neighbouring cells side by side: [rows, pairs of cells padded to steps,
/// C_out padded, 2]; zeros beyond the row. And the sums of their cells, as they were: [rows, C_out padded].
struct PairedRows {
  Half data;
  std::vector<float> sums;
  Index channels, steps;
  const std::uint16_t* row(Index i) const { return data.get() + i * steps * step_values * channels; }
};

inline PairedRows pair_rows(const Tensor& dy, const Rows& rows) {
  const Index c_out = dy.shape().c;
  PairedRows out{{}, {}, round_up(c_out, tile_size), (rows.length + step_values - 1) / step_values};
  out.data = allocate(rows.count * out.steps * step_values * out.channels);
  out.sums.resize(static_cast<std::size_t>(rows.count * out.channels));
  parallel_for(rows.count, [&](Index row) {
    const float* from = rows.start(dy, row);
    const Index cells = rows.cells_of(row);
    for (Index c = 0; c < out.channels; c += tile_size) {
      std::uint16_t* to = out.data.get() + row * out.steps * step_values * out.channels + 2 * c;
      __m512 even = _mm512_setzero_ps(), odd = even;
      for (Index i = 0; i < out.steps * step_values; i += 2, to += 2 * out.channels) {
        const __m512 first = load_channels(from, cells, c_out, i, c),
                     second = load_channels(from, cells, c_out, i + 1, c);
        even = _mm512_add_ps(even, first);
        odd = _mm512_add_ps(odd, second);
        _mm512_storeu_si512(to, pair_cells(first, second));
      }
      _mm512_storeu_ps(out.sums.data() + row * out.channels + c, _mm512_add_ps(even, odd));
    }
  });
  return out;
}

template <class Kernels>
void convolve_with(const Tensor& x, const PackedBf16& w, const float* bias, const Tensor* residual,
                   Tensor& y) {
  constexpr Index flat_length = 256;
  const Rows rows(y.shape(),
                  w.stencil.taps() == 1 && x.dense() && y.dense() && (!residual || residual->dense()),
                  flat_length);
  // With one tap a row is read once: it is rounded where it is used. Otherwise by all rows around it.
  const Half values = rows.flat ? Half{} : rounded(x);
  const float* const origin = x.storage().data();
  std::vector<Index> offsets;
  for (int t = 0; t < w.stencil.t; ++t)
    for (int r = 0; r < w.stencil.y; ++r)
      offsets.push_back((t + w.stencil.t_first) * x.stride_t() + (r + w.stencil.y_first) * x.stride_y() +
                        w.stencil.x_first * x.stride_x());
  const int blocks = (w.tiles + 1) / 2;

  // Short rows share a task, so that weights are loaded for two tiles of cells at a time.
  const Index rows_at_once = rows.length >= at_once ? 1 : at_once / round_up(rows.length, tile_size);
  const Index row_groups = (rows.count + rows_at_once - 1) / rows_at_once;
  // `from` is where the values of the group's first row lie, in the layout of x.
  const auto convolve_rows = [&](const Kernels& kernels, Index block, Index group,
                                 const std::uint16_t* from) {
    const Index first = block * at_once, channels = std::min<Index>(at_once, w.c_out - first);
    const std::uint16_t* weights = w.data.data() + 2 * block * w.tile_stride();
    const Index first_row = group * rows_at_once, last_row = std::min(rows.count, first_row + rows_at_once);
    const float* const start = rows.start(x, first_row);
    alignas(64) float sums[at_once * at_once];
    const auto store = [&](const CellTile& tile, const float* tile_sums) {
      float* to = rows.start(y, tile.row) + tile.first * w.c_out + first;
      const float* more = residual ? rows.start(*residual, tile.row) + tile.first * w.c_out + first : nullptr;
      for (Index cell = 0; cell < tile.cells; ++cell, to += w.c_out)
        for (Index c = 0; c < channels; c += tile_size) {
          const __mmask16 lanes = first_lanes(channels - c);
          __m512 sum = _mm512_load_ps(tile_sums + cell * at_once + c);
          if (bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, bias + first + c));
          if (more) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, more + cell * w.c_out + c));
          _mm512_mask_storeu_ps(to + c, lanes, sum);
        }
    };
    CellTile tiles[2];
    int waiting = 0;
    const auto finish = [&] {
      kernels.multiply(tiles, waiting, offsets.data(), w, weights, channels > tile_size ? 2 : 1, sums);
      for (int i = 0; i < waiting; ++i) store(tiles[i], sums + i * tile_size * at_once);
      waiting = 0;
    };
    for (Index row = first_row; row < last_row; ++row)
      for (Index i = 0; i < rows.cells_of(row); i += tile_size) {
        const auto cells = static_cast<int>(std::min<Index>(tile_size, rows.cells_of(row) - i));
        tiles[waiting++] = {row, i, cells, from + (rows.start(x, row) - start) + i * w.c_in};
        if (waiting == 2) finish();
      }
    if (waiting > 0) finish();
  };
  constexpr std::size_t cached_weights = std::size_t{256} << 10;
  if (rows.flat)
    parallel_for(rows.count, [&](Index row) {
      const Index n = rows.cells_of(row) * w.c_in;
      const Half here = allocate_cells(round_up(n, 16), w.c_in);
      round_values(rows.start(x, row), n, here.get());
      const Kernels kernels;
      for (Index block = 0; block < blocks; ++block) convolve_rows(kernels, block, row, here.get());
    });
  else if (w.data.size() <= cached_weights) // all weights stay in the cache
    parallel_for(row_groups, [&](Index group) {
      const Kernels kernels;
      for (Index block = 0; block < blocks; ++block)
        convolve_rows(kernels, block, group, values.get() + (rows.start(x, group * rows_at_once) - origin));
    });
  else // a block's weights stay there while all rows pass
    parallel_for(blocks * row_groups, [&](Index task) {
      const Index block = task / row_groups, group = task % row_groups;
      const Kernels kernels;
      convolve_rows(kernels, block, group, values.get() + (rows.start(x, group * rows_at_once) - origin));
    });
}

template <class Kernels>
void weight_gradient_with(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw, float* db) {
  const Index c_in = x.shape().c, c_out = dy.shape().c;
  const int taps = stencil.taps();
  constexpr Index flat_length = 256;
  const Rows rows(dy.shape(), taps == 1 && x.dense() && dy.dense(), flat_length);
  const Shape& s = x.shape();
  const Margin& m = x.margin();
  const Index frames = s.t + m.t_lo + m.t_hi, heights = s.y + m.y_lo + m.y_hi;
  const Index width = s.x + m.x_lo + m.x_hi;
  const TurnedRows turned =
      rows.flat ? turn_rows(
                      rows.count, rows.length, c_in, [&](Index i) { return rows.start(x, i); },
                      [&](Index i) { return rows.cells_of(i); })
                : turn_rows(
                      s.b * frames * heights, round_up(s.x, step_values) + width - s.x, c_in,
                      [&](Index i) {
                        return x.cell(i / heights / frames, i / heights % frames - m.t_lo,
                                      i % heights - m.y_lo, -m.x_lo);
                      },
                      [&](Index) { return width; });
  const PairedRows paired = pair_rows(dy, rows);
  const auto row_pair = [&](Index row) { // x at the first tap
    const std::uint16_t* from = turned.row(row);
    if (!rows.flat) {
      const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
      from =
          turned.row((b * frames + t + stencil.t_first + m.t_lo) * heights + y + stencil.y_first + m.y_lo) +
          stencil.x_first + m.x_lo;
    }
    return RowPair{from, paired.row(row), rows.cells_of(row)};
  };

  // A tile of sums is 16 input channels at one tap by 16 output channels; a unit of work is two by two of
  // them.
  const Index parts = turned.channels / tile_size, sum_rows = taps * parts, row_pairs = (sum_rows + 1) / 2;
  const Index column_pairs = (paired.channels / tile_size + 1) / 2, units = row_pairs * column_pairs;
  const Index weights = sum_rows * tile_size * paired.channels;
  const auto [chunks, groups] =
      cut_gradient(dy.shape().cells(), turned.channels + paired.channels, weights, rows.count, units);
  Tensor sums({1, 1, 1, chunks, weights});
  const auto input_tile = [&](Index sum_row) {
    const Index tap = sum_row / parts, part = sum_row % parts;
    const Index kx = tap % stencil.x, ky = tap / stencil.x % stencil.y, kt = tap / stencil.x / stencil.y;
    return InputTile{((kt * heights + ky) * turned.channels + part * tile_size) * turned.cells + kx,
                     static_cast<int>(std::min<Index>(tile_size, c_in - part * tile_size))};
  };
  const Index rows_at_once = std::max<Index>(1, Kernels::cells_at_once / rows.length);

  parallel_for(chunks * groups, [&](Index task) {
    const Index chunk = task / groups, group = task % groups;
    const Index first_row = rows.count * chunk / chunks, last_row = rows.count * (chunk + 1) / chunks;
    const Index first_unit = units * group / groups, last_unit = units * (group + 1) / groups;
    float* const sum = sums.cell(0, 0, 0, chunk);
    const Kernels kernels;
    std::vector<RowPair> pairs;
    for (Index row = first_row; row < last_row; row += rows_at_once) {
      pairs.clear();
      for (Index i = row; i < std::min(last_row, row + rows_at_once); ++i) pairs.push_back(row_pair(i));
      for (Index unit = first_unit; unit < last_unit; ++unit) {
        const Index r = unit / column_pairs * 2, c = unit % column_pairs * 2;
        const int input_tiles = r + 1 < sum_rows ? 2 : 1,
                  channel_tiles = (c + 1) * tile_size < paired.channels ? 2 : 1;
        const InputTile inputs[2] = {input_tile(r), input_tile(std::min(r + 1, sum_rows - 1))};
        float* to = sum + r * tile_size * paired.channels + c * tile_size;
        if (row == first_row)
          for (Index i = 0; i < input_tiles * tile_size; ++i)
            std::fill_n(to + i * paired.channels, channel_tiles * tile_size, 0.0F);
        kernels.correlate(pairs.data(), static_cast<Index>(pairs.size()), inputs, input_tiles, turned.cells,
                          c * tile_size, paired.channels, channel_tiles, to, paired.channels);
      }
    }
  });

  float* const w = dw.cell(0, 0, 0, 0);
  parallel_for(Index{taps} * c_in, [&](Index i) {
    const Index row = i / c_in * parts * tile_size + i % c_in;
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      const float* sum = sums.cell(0, 0, 0, chunk) + row * paired.channels;
      for (Index c = 0; c < c_out; ++c) w[i * c_out + c] += sum[c];
    }
  });
  if (!db) return;
  const float* row_sums = paired.sums.data();
  for (Index row = 0; row < rows.count; ++row, row_sums += paired.channels)
    for (Index c = 0; c < c_out; ++c) db[c] += row_sums[c];
}

} // namespace pluvia::bf16
