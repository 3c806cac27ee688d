#include "pluvia/ops/conv3d.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

#include "conv3d_bf16.hpp"
#include "conv3d_rows.hpp"
#include "kernels.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"

namespace pluvia {

using simd::Vec;

Stencil causal_stencil(int t, int y, int x) {
  return {t, y, x, 1 - t, -(y / 2), -(x / 2)};
}

Stencil transposed(const Stencil& s) {
  return {s.t, s.y, s.x, -(s.t_first + s.t - 1), -(s.y_first + s.y - 1), -(s.x_first + s.x - 1)};
}

Margin reach(const Stencil& s) {
  return {-s.t_first, s.t_first + s.t - 1, -s.y_first, s.y_first + s.y - 1, -s.x_first, s.x_first + s.x - 1};
}

namespace {

// Cells per register tile: with two vectors of output channels each, the accumulators, the two weight vectors
// and one broadcast fit the register file.
constexpr int tile_cells = simd::registers == 32 ? 12 : 6;

int channel_block(int c_out) {
  return c_out > simd::width ? 2 * simd::width : simd::width;
}

PackedWeights unpacked(const Stencil& stencil, Index c_in, Index c_out) {
  PackedWeights p{
      stencil, static_cast<int>(c_in), static_cast<int>(c_out), channel_block(static_cast<int>(c_out)), {}};
  p.data = Tensor({1, p.blocks(), stencil.taps(), c_in, p.block});
  return p;
}

/// Calls fill(tap, first output, outputs, panel) for the panels [C_in, block] of all taps and blocks; few
/// values are packed before another thread has woken.
template <class F> void for_panels(PackedWeights& p, F&& fill) {
  constexpr Index values_a_task = 32768;
  const Index taps = p.stencil.taps(), panels = p.blocks() * taps, values = Index{p.c_in} * p.block,
              tasks = std::min(panels, 1 + panels * values / values_a_task);
  parallel_for(tasks, [&](Index task) {
    for (Index i = panels * task / tasks; i < panels * (task + 1) / tasks; ++i) {
      const Index block = i / taps, first = block * p.block;
      fill(i % taps, first, std::min<Index>(p.block, p.c_out - first), p.data.cell(0, block, i % taps, 0));
    }
  });
}

// Loops over accumulators are unrolled on request: left to itself GCC does so too late to keep them in
// registers where inner loops end.

/// `cells` neighbouring outputs of one row, one block of channels.
template <int Cells, int Vectors>
void convolve_tile(const float* x, Index cell_stride, const Index* offsets, int taps, int c_in,
                   const float* w, const float* bias, const float* residual, Index residual_stride, float* y,
                   Index y_stride, int valid) {
  constexpr int block = Vectors * simd::width;
  Vec acc[Cells][Vectors];
  for (int v = 0; v < Vectors; ++v) {
    const Vec b = bias ? Vec::load(bias + v * simd::width) : Vec::zero();
#pragma GCC unroll 16
    for (int p = 0; p < Cells; ++p) acc[p][v] = b;
  }
  for (int tap = 0; tap < taps; ++tap) {
    const float* xt = x + offsets[tap];
    for (int ci = 0; ci < c_in; ++ci, w += block) {
      Vec weight[Vectors];
      for (int v = 0; v < Vectors; ++v) weight[v] = Vec::load(w + v * simd::width);
#pragma GCC unroll 16
      for (int p = 0; p < Cells; ++p) {
        const Vec value = Vec::broadcast(xt[p * cell_stride + ci]);
        for (int v = 0; v < Vectors; ++v) acc[p][v] = fma(value, weight[v], acc[p][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < Cells; ++p) {
    float* yp = y + p * y_stride;
    const float* rp = residual ? residual + p * residual_stride : nullptr;
    if (valid == block) {
      for (int v = 0; v < Vectors; ++v)
        (rp ? acc[p][v] + Vec::load(rp + v * simd::width) : acc[p][v]).store(yp + v * simd::width);
    } else {
      float lanes[block];
      for (int v = 0; v < Vectors; ++v) acc[p][v].store(lanes + v * simd::width);
      for (int j = 0; j < valid; ++j) yp[j] = rp ? lanes[j] + rp[j] : lanes[j];
    }
  }
}

using TileKernel = decltype(&convolve_tile<1, 1>);

template <int Vectors, int... Counts> constexpr auto tile_table(std::integer_sequence<int, Counts...>) {
  return std::array<TileKernel, sizeof...(Counts)>{&convolve_tile<Counts + 1, Vectors>...};
}

/// A row as long as the innermost cache likes for so many values a cell.
Index flat_row(Index channels) {
  constexpr Index values = 6144;
  return std::clamp<Index>(values / channels / tile_cells, 1, 16) * tile_cells;
}

/// Rows of at most this length that are as even as their number is for so many threads.
Index even_rows(Index cells, Index length) {
  constexpr Index threads = 16;
  return std::min(cells, round_up((cells + length - 1) / length, threads));
}

std::vector<Index> tap_offsets(const Tensor& x, const Stencil& s) {
  std::vector<Index> offsets;
  offsets.reserve(static_cast<std::size_t>(s.taps()));
  for (int t = 0; t < s.t; ++t)
    for (int y = 0; y < s.y; ++y)
      for (int k = 0; k < s.x; ++k)
        offsets.push_back((t + s.t_first) * x.stride_t() + (y + s.y_first) * x.stride_y() +
                          (k + s.x_first) * x.stride_x());
  return offsets;
}

/// Neighbouring cells of one row: their inputs at one tap's offset, and their output gradients.
struct Segment {
  const float *x, *dy;
  Index cells;
};

constexpr int most_inputs(int vectors) {
  return vectors == 1 ? (simd::registers == 32 ? 16 : 12) : (simd::registers == 32 ? 12 : 6);
}

/// dw += x dy over the cells of some segments, for `Inputs` input and `Vectors` vectors of output channels.
template <int Inputs, int Vectors>
void weight_tile(const Segment* segments, int count, Index x_offset, Index x_stride, Index dy_offset,
                 Index dy_stride, float* dw, Index dw_stride) {
  Vec acc[Inputs][Vectors];
#pragma GCC unroll 16
  for (int p = 0; p < Inputs; ++p)
    for (int v = 0; v < Vectors; ++v) acc[p][v] = Vec::load(dw + p * dw_stride + v * simd::width);
  for (int s = 0; s < count; ++s) {
    const float *x = segments[s].x + x_offset, *dy = segments[s].dy + dy_offset;
    for (Index i = 0; i < segments[s].cells; ++i, x += x_stride, dy += dy_stride) {
      Vec d[Vectors];
      for (int v = 0; v < Vectors; ++v) d[v] = Vec::load(dy + v * simd::width);
#pragma GCC unroll 16
      for (int p = 0; p < Inputs; ++p) {
        const Vec value = Vec::broadcast(x[p]);
        for (int v = 0; v < Vectors; ++v) acc[p][v] = fma(value, d[v], acc[p][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < Inputs; ++p)
    for (int v = 0; v < Vectors; ++v) acc[p][v].store(dw + p * dw_stride + v * simd::width);
}

using WeightKernel = decltype(&weight_tile<1, 1>);
template <int Vectors, int... Counts> constexpr auto weight_table(std::integer_sequence<int, Counts...>) {
  return std::array<WeightKernel, sizeof...(Counts)>{&weight_tile<Counts + 1, Vectors>...};
}

} // namespace

PackedWeights pack(const Tensor& weight, const Stencil& stencil) {
  const Index c_in = weight.shape().x, c_out = weight.shape().c;
  PackedWeights p = unpacked(stencil, c_in, c_out);
  for_panels(p, [&](Index tap, Index first, Index outputs, float* to) {
    const float* from = weight.cell(0, 0, 0, 0) + tap * c_in * c_out + first;
    for (Index ci = 0; ci < c_in; ++ci, from += c_out, to += p.block) {
      if (outputs == p.block) {
        for (int c = 0; c < p.block; c += simd::width) Vec::load(from + c).store(to + c);
      } else {
        std::copy_n(from, outputs, to);
        std::fill(to + outputs, to + p.block, 0.0F);
      }
    }
  });
  return p;
}

PackedWeights pack_transposed(const Tensor& weight, const Stencil& stencil) {
  const Index c_in = weight.shape().c, c_out = weight.shape().x;
  PackedWeights p = unpacked(transposed(stencil), c_in, c_out);
  const Index last = stencil.taps() - 1;
  for_panels(p, [&](Index tap, Index first, Index outputs, float* to) {
    const float* from = weight.cell(0, 0, 0, 0) + ((last - tap) * c_out + first) * c_in;
    Index turned = 0; // input channels
    if (outputs == p.block && p.block % 16 == 0)
      for (; turned + 16 <= c_in; turned += 16)
        for (Index j = 0; j < p.block; j += 16) {
          simd::Float16 square[16];
          for (Index i = 0; i < 16; ++i)
            std::memcpy(&square[i], from + (j + i) * c_in + turned, sizeof square[i]);
          simd::turn(square);
          for (Index i = 0; i < 16; ++i)
            std::memcpy(to + (turned + i) * p.block + j, &square[i], sizeof square[i]);
        }
    for (Index ci = turned; ci < c_in; ++ci)
      for (Index j = 0; j < p.block; ++j) to[ci * p.block + j] = j < outputs ? from[j * c_in + ci] : 0.0F;
  });
  return p;
}

void convolve(const Tensor& x, const PackedWeights& w, const float* bias, const Tensor* residual, Tensor& y,
              std::span<const OutputPart> parts) {
  const Shape& s = y.shape();
  assert(x.shape().c == w.c_in && s.c == w.c_out);
  assert(x.shape().x == s.x && x.shape().y == s.y && x.shape().t == s.t);
  static constexpr auto one = tile_table<1>(std::make_integer_sequence<int, tile_cells>{});
  static constexpr auto two = tile_table<2>(std::make_integer_sequence<int, tile_cells>{});
  const auto& kernels = w.block == simd::width ? one : two;

  const int taps = w.stencil.taps(), blocks = w.blocks();
  const std::vector<Index> offsets = tap_offsets(x, w.stencil);
  std::vector<float> padded_bias(static_cast<std::size_t>(blocks) * w.block, 0.0F);
  if (bias) std::copy_n(bias, w.c_out, padded_bias.begin());
  // Where every cell stands by itself and follows the one before, rows may be cut anywhere.
  const bool flat = parts.empty() && taps == 1 && x.dense() && y.dense() && (!residual || residual->dense());
  const OutputPart whole{{0, s.t}, {0, s.y}, {0, s.x}};
  if (parts.empty()) parts = {&whole, 1};

  const auto convolve_cells = [&](Index block, Index cells, const float* xr, const float* rr, float* yr) {
    const Index first = block * w.block;
    const int valid = static_cast<int>(std::min<Index>(w.block, w.c_out - first));
    const int tile = even_part(cells, tile_cells);
    yr += first;
    if (rr) rr += first;
    for (Index i = 0; i < cells; i += tile) {
      const auto n = static_cast<std::size_t>(std::min<Index>(tile, cells - i));
      kernels[n - 1](xr + i * w.c_in, w.c_in, offsets.data(), taps, w.c_in, w.data.cell(0, block, 0, 0),
                     bias ? padded_bias.data() + first : nullptr, rr ? rr + i * w.c_out : nullptr, w.c_out,
                     yr + i * w.c_out, w.c_out, valid);
    }
  };
  // Rows of each part follow those of the one before.
  std::vector<Index> ends;
  for (const OutputPart& part : parts)
    ends.push_back((ends.empty() ? 0 : ends.back()) + s.b * part.t.size() * part.y.size());
  const Index count = flat ? even_rows(s.cells(), flat_row(w.c_in + w.c_out)) : ends.back();
  const auto convolve_row = [&](Index block, Index row) {
    if (flat) {
      const Index first = s.cells() * row / count, last = s.cells() * (row + 1) / count;
      return convolve_cells(block, last - first, x.cell(0, 0, 0, 0) + first * w.c_in,
                            residual ? residual->cell(0, 0, 0, 0) + first * w.c_out : nullptr,
                            y.cell(0, 0, 0, 0) + first * w.c_out);
    }
    const auto n = static_cast<std::size_t>(std::ranges::upper_bound(ends, row) - ends.begin());
    const OutputPart& part = parts[n];
    if (n > 0) row -= ends[n - 1];
    const Index iy = part.y.from + row % part.y.size(), frame = row / part.y.size(),
                t = part.t.from + frame % part.t.size(), b = frame / part.t.size(), ix = part.x.from;
    convolve_cells(block, part.x.size(), x.cell(b, t, iy, ix),
                   residual ? residual->cell(b, t, iy, ix) : nullptr, y.cell(b, t, iy, ix));
  };
  constexpr Index cached_weights = Index{64} << 10;
  if (w.data.shape().size() <= cached_weights) // all weights stay in the cache: a row is read once
    parallel_for(count, [&](Index row) {
      for (Index block = 0; block < blocks; ++block) convolve_row(block, row);
    });
  else // a block's weights stay there while all rows pass
    parallel_for(blocks * count, [&](Index task) { convolve_row(task / count, task % count); });
}

void convolve_weight_gradient(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                              float* db) {
  static constexpr auto one = weight_table<1>(std::make_integer_sequence<int, most_inputs(1)>{});
  static constexpr auto two = weight_table<2>(std::make_integer_sequence<int, most_inputs(2)>{});
  const auto c_in = static_cast<int>(x.shape().c), c_out = static_cast<int>(dy.shape().c);
  const int taps = stencil.taps();
  const std::vector<Index> offsets = tap_offsets(x, stencil);
  const Rows rows(dy.shape(), taps == 1 && x.dense() && dy.dense(), flat_row(c_in + c_out));

  // Outputs are padded to whole vectors; a unit of work is one tap, some input channels and one block.
  const Index padded = round_up(c_out, c_out > simd::width ? 2 * simd::width : simd::width);
  const int block = channel_block(c_out), blocks = static_cast<int>(padded / block);
  const int inputs = even_part(c_in, most_inputs(block / simd::width)), parts = (c_in + inputs - 1) / inputs;
  const Index units = Index{taps} * parts * blocks;

  const Index weights = Index{taps} * c_in * padded, partial = weights + padded;
  const auto [chunks, groups] = cut_gradient(dy.shape().cells(), c_in + padded, weights, rows.count, units);
  Tensor sums({1, 1, 1, chunks, partial});
  // Few enough cells for the innermost cache, enough to forget the loading and storing of the partial sums.
  const Index cells_at_once = std::clamp<Index>(12288 / (c_in + padded), 16, 128);

  parallel_for(chunks * groups, [&](Index task) {
    const Index chunk = task / groups, group = task % groups;
    const Index first_unit = units * group / groups, last_unit = units * (group + 1) / groups;
    const Index first_row = rows.count * chunk / chunks, last_row = rows.count * (chunk + 1) / chunks;
    float* const sum = sums.cell(0, 0, 0, chunk);
    for (Index unit = first_unit; unit < last_unit; ++unit) {
      const Index tap = unit / blocks / parts, ci = unit / blocks % parts * inputs,
                  co = unit % blocks * block;
      for (Index p = 0; p < std::min<Index>(inputs, c_in - ci); ++p)
        std::fill_n(sum + (tap * c_in + ci + p) * padded + co, block, 0.0F);
    }
    float* const bias_sum = sum + weights;
    if (group == 0) std::fill_n(bias_sum, padded, 0.0F);
    std::vector<float> widened; // dy padded to whole vectors, where it is not
    std::vector<Segment> segments;
    const auto add = [&] {
      Index dy_stride = c_out;
      if (padded != c_out) {
        dy_stride = padded;
        Index n = 0;
        for (const Segment& s : segments) n += s.cells;
        widened.assign(static_cast<std::size_t>(n * padded), 0.0F);
        float* out = widened.data();
        for (Segment& s : segments) {
          const float* from = std::exchange(s.dy, out);
          for (Index i = 0; i < s.cells; ++i, out += padded) std::copy_n(from + i * c_out, c_out, out);
        }
      }
      for (Index unit = first_unit; unit < last_unit; ++unit) {
        const Index tap = unit / blocks / parts, ci = unit / blocks % parts * inputs,
                    co = unit % blocks * block;
        const auto n = static_cast<std::size_t>(std::min<Index>(inputs, c_in - ci));
        const WeightKernel kernel = block == simd::width ? one[n - 1] : two[n - 1];
        kernel(segments.data(), static_cast<int>(segments.size()),
               offsets[static_cast<std::size_t>(tap)] + ci, c_in, co, dy_stride,
               sum + (tap * c_in + ci) * padded + co, padded);
      }
      if (group == 0 && db)
        for (const Segment& s : segments)
          for (Index i = 0; i < s.cells; ++i)
            for (Index c = 0; c < padded; ++c) bias_sum[c] += s.dy[i * dy_stride + c];
      segments.clear();
    };
    Index waiting = 0;
    for (Index row = first_row; row < last_row; ++row)
      for (Index i = 0; i < rows.cells_of(row); i += cells_at_once) {
        const Index n = std::min(cells_at_once, rows.cells_of(row) - i);
        segments.push_back({rows.start(x, row) + i * c_in, rows.start(dy, row) + i * c_out, n});
        waiting += n;
        if (waiting >= cells_at_once) add(), waiting = 0;
      }
    if (waiting > 0) add();
  });

  float* const w = dw.cell(0, 0, 0, 0);
  parallel_for(Index{taps} * c_in, [&](Index i) {
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      const float* sum = sums.cell(0, 0, 0, chunk) + i * padded;
      for (int c = 0; c < c_out; ++c) w[i * c_out + c] += sum[c];
    }
  });
  if (!db) return;
  for (Index chunk = 0; chunk < chunks; ++chunk)
    for (int c = 0; c < c_out; ++c) db[c] += sums.cell(0, 0, 0, chunk)[weights + c];
}

void convolution(Precision precision, const Tensor& x, const Tensor& weight, const Stencil& stencil,
                 const float* bias, const Tensor* residual, Tensor& y, const Split& split,
                 const Arrival& arrival) {
  if (x.device() == Device::gpu)
    return kernels::convolve(precision, x.view(), weight.cell(0, 0, 0, 0), kernels::Weights::as_they_are,
                             stencil, bias, residual ? residual->view() : ConstView{}, y.view(), split,
                             arrival);
  const auto with = [&](const auto& packed, auto convolve) {
    compute_around(arrival, split,
                   [&](std::span<const OutputPart> parts) { convolve(x, packed, bias, residual, y, parts); });
  };
  if (precision == Precision::bf16) return with(pack_bf16(weight, stencil), convolve_bf16);
  with(pack(weight, stencil), convolve);
}

Index cells_at_once(Precision precision, Index row) {
  return precision == Precision::bf16 ? PackedBf16::tile_size : even_part(row, tile_cells);
}

void convolution_pull_input(Precision precision, const Tensor& dy, const Tensor& weight,
                            const Stencil& stencil, const Tensor* addend, Tensor& dx) {
  if (dy.device() == Device::gpu)
    kernels::convolve(precision, dy.view(), weight.cell(0, 0, 0, 0), kernels::Weights::transposed,
                      transposed(stencil), nullptr, addend ? std::as_const(*addend).view() : ConstView{},
                      dx.view());
  else if (precision == Precision::bf16)
    convolve_bf16(dy, pack_transposed_bf16(weight, stencil), nullptr, addend, dx);
  else
    convolve(dy, pack_transposed(weight, stencil), nullptr, addend, dx);
}

void convolution_pull_weight(Precision precision, const Tensor& x, const Tensor& dy, const Stencil& stencil,
                             Tensor& dw, float* db) {
  if (x.device() == Device::gpu)
    kernels::convolve_weight_gradient(precision, x.view(), dy.view(), stencil, dw.cell(0, 0, 0, 0), db);
  else if (precision == Precision::bf16)
    convolve_weight_gradient_bf16(x, dy, stencil, dw, db);
  else
    convolve_weight_gradient(x, dy, stencil, dw, db);
}

} // namespace pluvia
