#pragma once
// The convolution in bf16 and its weight gradient around the kernels of one kind of unit; for processors with
// AVX512_BF16, which rounds. Such Kernels are made for each task of a thread and provide
//
//   multiply   sums over the taps and input channels of two tiles of 16 cells by two of output channels;
//   correlate  adds to the sums over cells of two tiles of input channels by two of output channels;
//   cells_at_once  how many cells correlate is best given: as many as a cache holds, or all;
//   cells_a_step   how many it multiplies at a time: those that the last step of a run lacks are zeros.
//
// Either must add what makes one sum in an order that depends on nothing but the extents it is told.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <span>
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
/// A run of cells: x turned around [C_in, cells], dy in pairs [pairs of cells, C_out, 2], zeros beyond them.
struct RowPair {
  const std::uint16_t *x, *dy;
  Index cells;
};

/// The runs of cells that a weight gradient sums over: rows, or where these are short, several of a frame in
/// one run, together with the margins between them, where zeros of dy meet them.
struct GradientRuns {
  Rows rows;
  bool joined;
  Index at_once; ///< rows in a run
  Index pitch;   ///< cells from one to the next
  Index of_frame, count;

  /// `width`: of x with its margins.
  GradientRuns(const Rows& all, Index width, Index cells_a_step, Index cells_at_once)
      : rows(all), joined(false), at_once(1), pitch(all.length), of_frame(all.flat ? 1 : all.shape.y),
        count(all.count) {
    const Index enough_cells = std::min<Index>(512, cells_at_once),
                most = std::clamp<Index>(enough_cells / width, 1, all.shape.y);
    joined = !all.flat && round_up(most * width, cells_a_step) < most * round_up(all.length, cells_a_step);
    if (!joined) return;
    at_once = most, pitch = width, of_frame = (all.shape.y + most - 1) / most;
    count = all.shape.b * all.shape.t * of_frame;
  }
  Index first_row(Index run) const { return run % of_frame * at_once; }
  Index cells_of(Index run) const {
    return joined ? std::min(at_once, rows.shape.y - first_row(run)) * pitch : rows.cells_of(run);
  }
  template <class T> auto* start(T& tensor, Index run) const {
    return rows.start(tensor, joined ? run / of_frame * rows.shape.y + first_row(run) : run);
  }
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

/// Rows of x that given outputs read, margins included, and of these the columns that they read; zeros in the
/// others and behind each row, where a last step meets weights of zero.
struct RoundedRows {
  Half data;
  Index stride; ///< from row to row
  Margin margin;
  Index frames, heights, channels; ///< margins included
  const std::uint16_t* cell(Index b, Index t, Index y, Index x) const {
    return data.get() + row(b, t, y) * stride + (x + margin.x_lo) * channels;
  }
  Index row(Index b, Index t, Index y) const {
    return (b * frames + t + margin.t_lo) * heights + y + margin.y_lo;
  }
};

inline RoundedRows round_rows(const Tensor& x, const Stencil& stencil, std::span<const OutputPart> parts) {
  const Shape& s = x.shape();
  const Margin& m = x.margin();
  const Index width = s.x + m.x_lo + m.x_hi;
  RoundedRows out{{}, width * s.c + step_values, m, s.t + m.t_lo + m.t_hi, s.y + m.y_lo + m.y_hi, s.c};
  const Index rows = s.b * out.frames * out.heights;
  out.data = allocate_cells(rows * out.stride, s.c);
  std::vector<char> is_read(static_cast<std::size_t>(rows), 0);
  Span columns{s.x, 0};
  for (const OutputPart& part : parts) {
    columns = {std::min(columns.from, part.x.from), std::max(columns.to, part.x.to)};
    for (Index b = 0; b < s.b; ++b)
      for (Index t = part.t.from; t < part.t.to + stencil.t - 1; ++t)
        std::fill_n(is_read.begin() + out.row(b, t + stencil.t_first, part.y.from + stencil.y_first),
                    part.y.size() + stencil.y - 1, char{1});
  }
  std::vector<Index> read;
  for (Index row = 0; row < rows; ++row)
    if (is_read[static_cast<std::size_t>(row)]) read.push_back(row);
  const Index first = (columns.from + stencil.x_first + m.x_lo) * s.c,
              count = (columns.size() + stencil.x - 1) * s.c;
  parallel_for(static_cast<Index>(read.size()), [&](Index i) {
    const Index row = read[static_cast<std::size_t>(i)];
    const float* const from = x.storage().data() + row * width * s.c;
    std::uint16_t* const to = out.data.get() + row * out.stride;
    std::fill_n(to, first, std::uint16_t{0});
    round_values(from + first, count, to + first);
    std::fill(to + first + count, to + out.stride, std::uint16_t{0});
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

/// Channels c to c + 15 of a cell; zeros where there are none.
inline __m512 load_channels(const float* cell, Index channels, Index c) {
  return cell ? _mm512_maskz_loadu_ps(first_lanes(channels - c), cell + c) : _mm512_setzero_ps();
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
    const auto cell = [&](Index n) { return n < cells ? from + n * c_in : nullptr; };
    std::uint16_t* to = out.data.get() + i * out.channels * out.cells;
    for (Index c = 0; c < out.channels; c += tile_size)
      for (Index x = 0; x < out.cells; x += step_values) {
        simd::Float16 block[16]; // of pairs; unrolled, it stays in registers
#pragma GCC unroll 16
        for (Index j = 0; j < 16; ++j)
          block[j] = std::bit_cast<simd::Float16>(pair_cells(load_channels(cell(x + 2 * j), c_in, c),
                                                             load_channels(cell(x + 2 * j + 1), c_in, c)));
        simd::turn(block);
#pragma GCC unroll 16
        for (Index j = 0; j < tile_size; ++j) _mm512_storeu_ps(to + (c + j) * out.cells + x, block[j]);
      }
  });
  return out;
}

/// Runs of dy with the values of two neighbouring cells side by side: [runs, pairs of cells padded to steps,
/// C_out padded, 2]; zeros between rows and beyond the run. And the sums of their cells, as they were:
/// [runs, C_out padded].
struct PairedRuns {
  Half data;
  std::vector<float> sums;
  Index channels, cells; ///< padded
  const std::uint16_t* run(Index i) const { return data.get() + i * cells * channels; }
};

inline PairedRuns pair_runs(const Tensor& dy, const GradientRuns& runs) {
  const Index c_out = dy.shape().c;
  PairedRuns out{{}, {}, round_up(c_out, tile_size), round_up(runs.at_once * runs.pitch, step_values)};
  out.data = allocate(runs.count * out.cells * out.channels);
  out.sums.resize(static_cast<std::size_t>(runs.count * out.channels));
  const auto pair_run = [&](Index run, auto&& cell) {
    for (Index c = 0; c < out.channels; c += tile_size) {
      std::uint16_t* to = out.data.get() + run * out.cells * out.channels + 2 * c;
      __m512 even = _mm512_setzero_ps(), odd = even;
      for (Index i = 0; i < out.cells; i += 2, to += 2 * out.channels) {
        const __m512 first = load_channels(cell(i), c_out, c), second = load_channels(cell(i + 1), c_out, c);
        even = _mm512_add_ps(even, first);
        odd = _mm512_add_ps(odd, second);
        _mm512_storeu_si512(to, pair_cells(first, second));
      }
      _mm512_storeu_ps(out.sums.data() + run * out.channels + c, _mm512_add_ps(even, odd));
    }
  };
  if (!runs.joined) {
    parallel_for(runs.count, [&](Index run) {
      const float* from = runs.start(dy, run);
      const Index cells = runs.cells_of(run);
      pair_run(run, [&](Index i) { return i < cells ? from + i * c_out : nullptr; });
    });
    return out;
  }
  const Index row_stride = dy.cell(0, 0, 1, 0) - dy.cell(0, 0, 0, 0);
  std::vector<Index> places; // of a run's cells; -1 between rows
  for (Index i = 0; i < out.cells; ++i)
    places.push_back(i % runs.pitch < runs.rows.length ? i / runs.pitch * row_stride + i % runs.pitch * c_out
                                                       : -1);
  parallel_for(runs.count, [&](Index run) {
    const float* from = runs.start(dy, run);
    const Index cells = runs.cells_of(run);
    pair_run(run, [&](Index i) {
      const Index place = places[static_cast<std::size_t>(i)];
      return i < cells && place >= 0 ? from + place : nullptr;
    });
  });
  return out;
}

/// Neighbouring outputs of one row.
struct Run {
  Index row, first, cells;
};

template <class Kernels>
void convolve_with(const Tensor& x, const PackedBf16& w, const float* bias, const Tensor* residual, Tensor& y,
                   std::span<const OutputPart> parts) {
  constexpr Index flat_length = 256;
  const Shape& s = y.shape();
  const OutputPart whole{{0, s.t}, {0, s.y}, {0, s.x}};
  if (parts.empty()) parts = {&whole, 1};
  const Rows rows(s, w.stencil.taps() == 1 && x.dense() && y.dense() && (!residual || residual->dense()),
                  flat_length);
  const int blocks = (w.tiles + 1) / 2;

  // values_of(run): where the rounded values of the run's first cell lie.
  const auto convolve_runs = [&](const Kernels& kernels, Index block, std::span<const Run> runs,
                                 const Index* offsets, auto&& values_of) {
    const Index first = block * at_once, channels = std::min<Index>(at_once, w.c_out - first);
    const std::uint16_t* weights = w.data.data() + 2 * block * w.tile_stride();
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
      kernels.multiply(tiles, waiting, offsets, w, weights, channels > tile_size ? 2 : 1, sums);
      for (int i = 0; i < waiting; ++i) store(tiles[i], sums + i * tile_size * at_once);
      waiting = 0;
    };
    for (const Run& run : runs) {
      const std::uint16_t* const values = values_of(run);
      for (Index i = 0; i < run.cells; i += tile_size) {
        const auto cells = static_cast<int>(std::min<Index>(tile_size, run.cells - i));
        tiles[waiting++] = {run.row, run.first + i, cells, values + i * w.c_in};
        if (waiting == 2) finish();
      }
    }
    if (waiting > 0) finish();
  };

  if (rows.flat) { // with one tap a row is read once, and rounded where it is used
    parallel_for(rows.count, [&](Index row) {
      const Run run{row, 0, rows.cells_of(row)};
      const Index n = run.cells * w.c_in;
      const Half here = allocate_cells(round_up(n, 16), w.c_in);
      round_values(rows.start(x, row), n, here.get());
      const Kernels kernels;
      const Index offset = 0;
      for (Index block = 0; block < blocks; ++block)
        convolve_runs(kernels, block, {&run, 1}, &offset, [&](const Run&) { return here.get(); });
    });
    return;
  }
  const RoundedRows rounded = round_rows(x, w.stencil, parts);
  std::vector<Index> offsets;
  for (int t = 0; t < w.stencil.t; ++t)
    for (int r = 0; r < w.stencil.y; ++r)
      offsets.push_back(rounded.cell(0, t + w.stencil.t_first, r + w.stencil.y_first, w.stencil.x_first) -
                        rounded.cell(0, 0, 0, 0));
  const auto values_of = [&](const Run& run) {
    return rounded.cell(run.row / s.y / s.t, run.row / s.y % s.t, run.row % s.y, run.first);
  };
  std::vector<Run> runs;
  for (Index b = 0; b < s.b; ++b)
    for (const OutputPart& part : parts)
      for (Index t = part.t.from; t < part.t.to; ++t)
        for (Index r = part.y.from; r < part.y.to; ++r)
          runs.push_back({(b * s.t + t) * s.y + r, part.x.from, part.x.size()});

  // Short rows share a task, so that weights are loaded for two tiles of cells at a time.
  const Index runs_at_once = s.x >= at_once ? 1 : at_once / round_up(s.x, tile_size);
  const auto count = static_cast<Index>(runs.size()), groups = (count + runs_at_once - 1) / runs_at_once;
  const auto group_of = [&](Index group) {
    const Index first = group * runs_at_once;
    return std::span<const Run>(runs).subspan(
        static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(runs_at_once, count - first)));
  };
  constexpr std::size_t cached_weights = std::size_t{256} << 10;
  if (w.data.size() <= cached_weights) // all weights stay in the cache
    parallel_for(groups, [&](Index group) {
      const Kernels kernels;
      for (Index block = 0; block < blocks; ++block)
        convolve_runs(kernels, block, group_of(group), offsets.data(), values_of);
    });
  else // a block's weights stay there while all rows pass
    parallel_for(blocks * groups, [&](Index task) {
      const Kernels kernels;
      convolve_runs(kernels, task / groups, group_of(task % groups), offsets.data(), values_of);
    });
}

template <class Kernels>
void weight_gradient_with(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw, float* db) {
  const Index c_in = x.shape().c, c_out = dy.shape().c;
  const int taps = stencil.taps();
  constexpr Index flat_length = 256;
  const Shape& s = x.shape();
  const Margin& m = x.margin();
  const Index frames = s.t + m.t_lo + m.t_hi, heights = s.y + m.y_lo + m.y_hi;
  const Index width = s.x + m.x_lo + m.x_hi;
  const Rows rows(dy.shape(), taps == 1 && x.dense() && dy.dense(), flat_length);
  const GradientRuns runs(rows, width, Kernels::cells_a_step, Kernels::cells_at_once);
  // Of x whole frames are turned around where their rows follow each other in runs, else rows. A last step
  // reads beyond them.
  const Index line = runs.joined ? heights * width : width,
              most = (runs.joined ? line + step_values : round_up(s.x, step_values)) + width - s.x;
  const TurnedRows turned =
      rows.flat
          ? turn_rows(
                rows.count, rows.length, c_in, [&](Index i) { return rows.start(x, i); },
                [&](Index i) { return rows.cells_of(i); })
          : turn_rows(
                s.b * frames * heights * width / line, most, c_in,
                [&](Index i) { return x.storage().data() + i * line * c_in; }, [&](Index) { return line; });
  const Index turned_line = turned.channels * turned.cells, row_stride = runs.joined ? width : turned_line,
              frame_stride = runs.joined ? turned_line : heights * turned_line;
  const PairedRuns paired = pair_runs(dy, runs);
  const auto row_pair = [&](Index run) { // x at the first tap
    const std::uint16_t* from = turned.row(run);
    if (!rows.flat) {
      const Index frame = run / runs.of_frame, t = frame % s.t, b = frame / s.t;
      from = turned.row(0) + (b * frames + t + stencil.t_first + m.t_lo) * frame_stride +
             (runs.first_row(run) + stencil.y_first + m.y_lo) * row_stride + stencil.x_first + m.x_lo;
    }
    return RowPair{from, paired.run(run), runs.cells_of(run)};
  };

  // A tile of sums is 16 input channels at one tap by 16 output channels; a unit of work is two by two of
  // them.
  const Index parts = turned.channels / tile_size, sum_rows = taps * parts, row_pairs = (sum_rows + 1) / 2;
  const Index column_pairs = (paired.channels / tile_size + 1) / 2, units = row_pairs * column_pairs;
  const Index weights = sum_rows * tile_size * paired.channels;
  const auto [chunks, groups] =
      cut_gradient(dy.shape().cells(), turned.channels + paired.channels, weights, runs.count, units);
  Tensor sums({1, 1, 1, chunks, weights});
  const auto input_tile = [&](Index sum_row) {
    const Index tap = sum_row / parts, part = sum_row % parts;
    const Index kx = tap % stencil.x, ky = tap / stencil.x % stencil.y, kt = tap / stencil.x / stencil.y;
    return InputTile{kt * frame_stride + ky * row_stride + part * tile_size * turned.cells + kx,
                     static_cast<int>(std::min<Index>(tile_size, c_in - part * tile_size))};
  };
  const Index runs_at_once = std::max<Index>(1, Kernels::cells_at_once / (runs.at_once * runs.pitch));

  parallel_for(chunks * groups, [&](Index task) {
    const Index chunk = task / groups, group = task % groups;
    const Index first_run = runs.count * chunk / chunks, last_run = runs.count * (chunk + 1) / chunks;
    const Index first_unit = units * group / groups, last_unit = units * (group + 1) / groups;
    float* const sum = sums.cell(0, 0, 0, chunk);
    const Kernels kernels;
    std::vector<RowPair> pairs;
    for (Index run = first_run; run < last_run; run += runs_at_once) {
      pairs.clear();
      for (Index i = run; i < std::min(last_run, run + runs_at_once); ++i) pairs.push_back(row_pair(i));
      for (Index unit = first_unit; unit < last_unit; ++unit) {
        const Index r = unit / column_pairs * 2, c = unit % column_pairs * 2;
        const int input_tiles = r + 1 < sum_rows ? 2 : 1,
                  channel_tiles = (c + 1) * tile_size < paired.channels ? 2 : 1;
        const InputTile inputs[2] = {input_tile(r), input_tile(std::min(r + 1, sum_rows - 1))};
        float* to = sum + r * tile_size * paired.channels + c * tile_size;
        if (run == first_run)
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
  const float* run_sums = paired.sums.data();
  for (Index run = 0; run < runs.count; ++run, run_sums += paired.channels)
    for (Index c = 0; c < c_out; ++c) db[c] += run_sums[c];
}

} // namespace pluvia::bf16
