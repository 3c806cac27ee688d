#include "conv3d_bf16.hpp"

#include <bit>
#include <cassert>
#include <memory>
#include <stdexcept>

#include "conv3d_rows.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#define PLUVIA_AMX
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pluvia {

namespace {

constexpr int step_values = 32; ///< summed in one matrix product: pairs in 16 rows
constexpr int tile_size = 16;   ///< cells, or channels, in one tile
constexpr Index step_block = Index{step_values} * tile_size;

/// To the nearest, ties to even; for weights, which are finite.
std::uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

template <class Source> PackedBf16 pack_with(const Stencil& stencil, int c_in, int c_out, Source&& source) {
  PackedBf16 p{stencil, c_in, c_out, 0, (c_out + tile_size - 1) / tile_size, {}};
  const int values = stencil.x * c_in;
  p.steps = (values + step_values - 1) / step_values;
  p.data.assign(static_cast<std::size_t>(p.tiles * stencil.t * stencil.y * p.steps * step_block), 0);
  std::uint16_t* out = p.data.data();
  for (int tile = 0; tile < p.tiles; ++tile)
    for (int row = 0; row < stencil.t * stencil.y; ++row)
      for (int step = 0; step < p.steps; ++step, out += step_block)
        for (int i = 0; i < step_values; ++i) {
          const int value = step * step_values + i;
          if (value >= values) break;
          for (int j = 0; j < tile_size && tile * tile_size + j < c_out; ++j)
            out[(i / 2 * tile_size + j) * 2 + i % 2] =
                round_to_bf16(source(row * stencil.x + value / c_in, value % c_in, tile * tile_size + j));
        }
  return p;
}

} // namespace

PackedBf16 pack_bf16(const Tensor& weight, const Stencil& stencil) {
  return pack_from(weight, stencil, [](auto&&... of) { return pack_with(of...); });
}

PackedBf16 pack_transposed_bf16(const Tensor& weight, const Stencil& stencil) {
  return pack_transposed_from(weight, stencil, [](auto&&... of) { return pack_with(of...); });
}

#ifdef PLUVIA_AMX

namespace {

using Half = std::unique_ptr<std::uint16_t[]>;

Half allocate(Index values) {
  return Half(new std::uint16_t[static_cast<std::size_t>(values)]);
}

/// Room for values of cells that tiles read whole. A last step meets weights of zero beyond the last cell,
/// where values must be finite: zeros. A last tile reads cells that are not there, whose sums are dropped:
/// anything.
Half allocate_cells(Index values, Index channels) {
  Half out = allocate(values + step_values + tile_size * channels);
  std::fill_n(out.get() + values, step_values, std::uint16_t{0});
  return out;
}

void store_rounded(std::uint16_t* to, __m512 values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), std::bit_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

__mmask16 first_lanes(Index n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << n) - 1);
}

void round_values(const float* from, Index count, std::uint16_t* to) {
  for (Index i = 0; i < count; i += 16)
    store_rounded(to + i, _mm512_maskz_loadu_ps(first_lanes(count - i), from + i));
}

/// All values of a tensor, margins too, at the same places.
Half rounded(const Tensor& x) {
  const auto from = x.storage();
  const auto values = static_cast<Index>(from.size());
  Half out = allocate_cells(round_up(values, 16), x.shape().c);
  constexpr Index piece = 16384;
  parallel_for((values + piece - 1) / piece, [&](Index i) {
    round_values(from.data() + i * piece, std::min(piece, values - i * piece), out.get() + i * piece);
  });
  return out;
}

/// What a thread tells its matrix unit: eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
  constexpr TileShapes() {
    for (int i = 0; i < 8; ++i) row_bytes[i] = 64, rows[i] = 16;
  }
};

// A constant in memory: the instruction that reads it tells the compiler of its first bytes alone.
constexpr TileShapes shapes;

constexpr Index at_once = 2 * tile_size;

/// One or two tiles of 16 neighbouring cells (the second begins `second` values after the first), one or two
/// tiles of output channels: sums as [cells, 32 channels].
template <int CellTiles, int ChannelTiles>
void multiply(const std::uint16_t* x, Index second, const Index* offsets, int rows, int steps,
              Index cell_stride, const std::uint16_t* w, Index tile_stride, float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const Index stride = cell_stride * static_cast<Index>(sizeof(std::uint16_t));
  for (int row = 0; row < rows; ++row) {
    const std::uint16_t* from = x + offsets[row];
    for (int step = 0; step < steps; ++step, from += step_values, w += step_block) {
      _tile_loadd(6, w, 64);
      if constexpr (ChannelTiles == 2) _tile_loadd(7, w + tile_stride, 64);
      _tile_loadd(4, from, stride);
      if constexpr (CellTiles == 2) _tile_loadd(5, from + second, stride);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (ChannelTiles == 2) _tile_dpbf16ps(1, 4, 7);
      if constexpr (CellTiles == 2) _tile_dpbf16ps(2, 5, 6);
      if constexpr (CellTiles == 2 && ChannelTiles == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  constexpr Index bytes = at_once * static_cast<Index>(sizeof(float));
  _tile_stored(0, sums, bytes);
  if constexpr (ChannelTiles == 2) _tile_stored(1, sums + tile_size, bytes);
  if constexpr (CellTiles == 2) _tile_stored(2, sums + tile_size * at_once, bytes);
  if constexpr (CellTiles == 2 && ChannelTiles == 2)
    _tile_stored(3, sums + tile_size * at_once + tile_size, bytes);
}

/// Rows of x turned around for the weight gradient: [rows, C_in padded to tiles, cells padded].
struct TurnedRows {
  Half data;
  Index channels, cells; ///< padded
  const std::uint16_t* row(Index i) const { return data.get() + i * channels * cells; }
};

/// start(i) is the first of cells_of(i) cells of row i, `most` at most; zeros follow them.
template <class Start, class Cells>
TurnedRows turn_rows(Index count, Index most, Index c_in, Start&& start, Cells&& cells_of) {
  TurnedRows out{{}, round_up(c_in, tile_size), round_up(most, step_values) + step_values};
  out.data = allocate(count * out.channels * out.cells);
  parallel_for(count, [&](Index i) {
    const float* from = start(i);
    const Index cells = cells_of(i);
    std::uint16_t* to = out.data.get() + i * out.channels * out.cells;
    for (Index c = 0; c < out.channels; c += tile_size)
      for (Index x = 0; x < out.cells; x += tile_size) {
        simd::Float16 block[16];
        for (Index j = 0; j < tile_size; ++j)
          block[j] = x + j < cells ? _mm512_maskz_loadu_ps(first_lanes(c_in - c), from + (x + j) * c_in + c)
                                   : simd::Float16{};
        simd::turn(block);
        for (Index j = 0; j < tile_size; ++j) store_rounded(to + (c + j) * out.cells + x, block[j]);
      }
  });
  return out;
}

/// Rows of dy with the values of two neighbouring cells side by side: [rows, pairs of cells padded to steps,
/// C_out padded, 2]; zeros beyond the row.
struct PairedRows {
  Half data;
  Index channels, steps;
  const std::uint16_t* row(Index i) const { return data.get() + i * steps * step_values * channels; }
};

PairedRows pair_rows(const Tensor& dy, const Rows& rows) {
  const Index c_out = dy.shape().c;
  PairedRows out{{}, round_up(c_out, tile_size), (rows.length + step_values - 1) / step_values};
  out.data = allocate(rows.count * out.steps * step_values * out.channels);
  // Words of the first cell's and the second cell's channels, in turn.
  alignas(64) std::uint16_t order[32];
  for (int i = 0; i < 32; ++i) order[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 16);
  const __m512i in_turn = _mm512_load_si512(order);
  parallel_for(rows.count, [&](Index row) {
    const float* from = rows.start(dy, row);
    const Index cells = rows.cells_of(row);
    std::uint16_t* to = out.data.get() + row * out.steps * step_values * out.channels;
    for (Index x = 0; x < out.steps * step_values; x += 2)
      for (Index c = 0; c < out.channels; c += tile_size, to += 2 * tile_size) {
        const auto cell = [&](Index i) {
          return i < cells ? _mm512_maskz_loadu_ps(first_lanes(c_out - c), from + i * c_out + c)
                           : _mm512_setzero_ps();
        };
        const auto both = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(cell(x + 1), cell(x)));
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(in_turn, both));
      }
  });
  return out;
}

} // namespace

bool has_native_bf16() {
  // The kernel gives tile registers only to processes that ask (arch_prctl, since Linux 5.16).
  constexpr int request_permission = 0x1023, tile_data = 18;
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
}

void convolve_bf16(const Tensor& x, const PackedBf16& w, const float* bias, const Tensor* residual,
                   Tensor& y) {
  assert(has_native_bf16() && x.shape().c == w.c_in && y.shape().c == w.c_out);
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
  const int taps = static_cast<int>(offsets.size()), blocks = (w.tiles + 1) / 2;
  const Index tile_stride = Index{taps} * w.steps * step_block;

  // Short rows share a task, so that weights are loaded for two tiles of cells at a time.
  const Index rows_at_once = rows.length >= at_once ? 1 : at_once / round_up(rows.length, tile_size);
  const Index row_groups = (rows.count + rows_at_once - 1) / rows_at_once;
  struct Tile {
    Index row, first, cells;
  };
  // `from` is where the values of the group's first row lie, in the layout of x.
  const auto convolve_rows = [&](Index block, Index group, const std::uint16_t* from) {
    const bool two = 2 * block + 1 < w.tiles;
    const Index first = block * at_once, channels = std::min<Index>(at_once, w.c_out - first);
    const std::uint16_t* weights = w.data.data() + 2 * block * tile_stride;
    const Index first_row = group * rows_at_once, last_row = std::min(rows.count, first_row + rows_at_once);
    const float* const start = rows.start(x, first_row);
    const auto place = [&](const Tile& tile) {
      return rows.start(x, tile.row) - start + tile.first * w.c_in;
    };
    alignas(64) float sums[at_once * at_once];
    const auto store = [&](const Tile& tile, const float* tile_sums) {
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
    Tile waiting{0, 0, 0};
    const auto finish = [&](const Tile& a, const Tile* b) {
      const auto run = b ? (two ? multiply<2, 2> : multiply<2, 1>) : (two ? multiply<1, 2> : multiply<1, 1>);
      run(from + place(a), b ? place(*b) - place(a) : 0, offsets.data(), taps, w.steps, w.c_in, weights,
          tile_stride, sums);
      store(a, sums);
      if (b) store(*b, sums + tile_size * at_once);
    };
    for (Index row = first_row; row < last_row; ++row)
      for (Index i = 0; i < rows.cells_of(row); i += tile_size) {
        const Tile tile{row, i, std::min<Index>(tile_size, rows.cells_of(row) - i)};
        if (waiting.cells == 0) {
          waiting = tile;
        } else {
          finish(waiting, &tile);
          waiting.cells = 0;
        }
      }
    if (waiting.cells > 0) finish(waiting, nullptr);
  };
  constexpr std::size_t cached_weights = std::size_t{256} << 10;
  if (rows.flat)
    parallel_for(rows.count, [&](Index row) {
      const Index n = rows.cells_of(row) * w.c_in;
      const Half here = allocate_cells(round_up(n, 16), w.c_in);
      round_values(rows.start(x, row), n, here.get());
      _tile_loadconfig(&shapes);
      for (Index block = 0; block < blocks; ++block) convolve_rows(block, row, here.get());
      _tile_release();
    });
  else if (w.data.size() <= cached_weights) // all weights stay in the cache
    parallel_for(row_groups, [&](Index group) {
      _tile_loadconfig(&shapes);
      for (Index block = 0; block < blocks; ++block)
        convolve_rows(block, group, values.get() + (rows.start(x, group * rows_at_once) - origin));
      _tile_release();
    });
  else // a block's weights stay there while all rows pass
    parallel_for(blocks * row_groups, [&](Index task) {
      const Index block = task / row_groups, group = task % row_groups;
      _tile_loadconfig(&shapes);
      convolve_rows(block, group, values.get() + (rows.start(x, group * rows_at_once) - origin));
      _tile_release();
    });
}

void convolve_weight_gradient_bf16(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                                   float* db) {
  assert(has_native_bf16());
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
                      rows.count, flat_length, c_in, [&](Index i) { return rows.start(x, i); },
                      [&](Index i) { return rows.cells_of(i); })
                : turn_rows(
                      s.b * frames * heights, width, c_in,
                      [&](Index i) {
                        return x.cell(i / heights / frames, i / heights % frames - m.t_lo,
                                      i % heights - m.y_lo, -m.x_lo);
                      },
                      [&](Index) { return width; });
  const PairedRows paired = pair_rows(dy, rows);

  // A tile of sums is 16 input channels at one tap by 16 output channels; a unit of work is two by two of
  // them.
  const Index parts = turned.channels / tile_size, sum_rows = taps * parts, row_pairs = (sum_rows + 1) / 2;
  const Index column_pairs = (paired.channels / tile_size + 1) / 2, units = row_pairs * column_pairs;
  const Index weights = sum_rows * tile_size * paired.channels;
  const auto [chunks, groups] =
      cut_gradient(dy.shape().cells(), turned.channels + paired.channels, weights, rows.count, units);
  Tensor sums({1, 1, 1, chunks, weights + c_out});

  const auto turned_row = [&](Index row, Index tap) { // where the row's x lies for a tap
    if (rows.flat) return turned.row(row);
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const Index kx = tap % stencil.x, ky = tap / stencil.x % stencil.y, kt = tap / stencil.x / stencil.y;
    return turned.row((b * frames + t + kt + stencil.t_first + m.t_lo) * heights + y + ky + stencil.y_first +
                      m.y_lo) +
           kx + stencil.x_first + m.x_lo;
  };
  parallel_for(chunks * groups, [&](Index task) {
    const Index chunk = task / groups, group = task % groups;
    const Index first_row = rows.count * chunk / chunks, last_row = rows.count * (chunk + 1) / chunks;
    float* const sum = sums.cell(0, 0, 0, chunk);
    const Index x_stride = turned.cells * 2, pair_stride = paired.channels * 4,
                sum_stride = paired.channels * 4;
    _tile_loadconfig(&shapes);
    for (Index unit = units * group / groups; unit < units * (group + 1) / groups; ++unit) {
      const Index r = unit / column_pairs * 2, c = unit % column_pairs * 2;
      const bool two_rows = r + 1 < sum_rows, two_columns = (c + 1) * tile_size < paired.channels;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (Index row = first_row; row < last_row; ++row) {
        const std::uint16_t* a = turned_row(row, r / parts) + r % parts * tile_size * turned.cells;
        const std::uint16_t* b =
            two_rows ? turned_row(row, (r + 1) / parts) + (r + 1) % parts * tile_size * turned.cells : a;
        const std::uint16_t* d = paired.row(row) + c * step_values;
        for (Index step = 0; step < paired.steps; ++step) {
          _tile_loadd(4, a + step * step_values, x_stride);
          _tile_loadd(6, d, pair_stride);
          _tile_dpbf16ps(0, 4, 6);
          if (two_columns) {
            _tile_loadd(7, d + step_values, pair_stride);
            _tile_dpbf16ps(1, 4, 7);
          }
          if (two_rows) {
            _tile_loadd(5, b + step * step_values, x_stride);
            _tile_dpbf16ps(2, 5, 6);
            if (two_columns) _tile_dpbf16ps(3, 5, 7);
          }
          d += step_values * paired.channels;
        }
      }
      float* to = sum + r * tile_size * paired.channels + c * tile_size;
      _tile_stored(0, to, sum_stride);
      if (two_columns) _tile_stored(1, to + tile_size, sum_stride);
      to += tile_size * paired.channels;
      if (two_rows) _tile_stored(2, to, sum_stride);
      if (two_rows && two_columns) _tile_stored(3, to + tile_size, sum_stride);
    }
    _tile_release();
    if (group != 0 || !db) return;
    float* const bias_sum = sum + weights;
    std::fill_n(bias_sum, c_out, 0.0F);
    for (Index row = first_row; row < last_row; ++row) {
      const float* from = rows.start(dy, row);
      for (Index i = 0; i < rows.cells_of(row); ++i, from += c_out)
        for (Index c = 0; c < c_out; ++c) bias_sum[c] += from[c];
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
  for (Index chunk = 0; chunk < chunks; ++chunk)
    for (Index c = 0; c < c_out; ++c) db[c] += sums.cell(0, 0, 0, chunk)[weights + c];
}

#else

bool has_native_bf16() {
  return false;
}

void convolve_bf16(const Tensor&, const PackedBf16&, const float*, const Tensor*, Tensor&) {
  throw std::logic_error("bf16 was asked for on a processor without it");
}

void convolve_weight_gradient_bf16(const Tensor&, const Tensor&, const Stencil&, Tensor&, float*) {
  throw std::logic_error("bf16 was asked for on a processor without it");
}

#endif

} // namespace pluvia
