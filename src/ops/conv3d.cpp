#include "pluvia/ops/conv3d.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

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
constexpr int tile_inputs = 6;

int channel_block(int c_out) {
  return c_out > simd::width ? 2 * simd::width : simd::width;
}

template <class Source> PackedWeights pack_with(Stencil stencil, int c_in, int c_out, Source&& source) {
  PackedWeights p{stencil, c_in, c_out, channel_block(c_out), {}};
  const int blocks = (c_out + p.block - 1) / p.block, taps = stencil.taps();
  p.data.assign(static_cast<std::size_t>(blocks) * taps * c_in * p.block, 0.0F);
  float* out = p.data.data();
  for (int block = 0; block < blocks; ++block)
    for (int tap = 0; tap < taps; ++tap)
      for (int ci = 0; ci < c_in; ++ci)
        for (int j = 0; j < p.block; ++j, ++out) {
          const int co = block * p.block + j;
          if (co < c_out) *out = source(tap, ci, co);
        }
  return p;
}

/// `cells` neighbouring outputs of one row, one block of channels.
template <int Cells, int Vectors>
void convolve_tile(const float* x, Index cell_stride, const Index* offsets, int taps, int c_in,
                   const float* w, const float* bias, const float* residual, Index residual_stride, float* y,
                   Index y_stride, int valid) {
  constexpr int block = Vectors * simd::width;
  Vec acc[Cells][Vectors];
  for (int v = 0; v < Vectors; ++v) {
    const Vec b = bias ? Vec::load(bias + v * simd::width) : Vec::zero();
    for (int p = 0; p < Cells; ++p) acc[p][v] = b;
  }
  for (int tap = 0; tap < taps; ++tap) {
    const float* xt = x + offsets[tap];
    for (int ci = 0; ci < c_in; ++ci, w += block) {
      Vec weight[Vectors];
      for (int v = 0; v < Vectors; ++v) weight[v] = Vec::load(w + v * simd::width);
      for (int p = 0; p < Cells; ++p) {
        const Vec value = Vec::broadcast(xt[p * cell_stride + ci]);
        for (int v = 0; v < Vectors; ++v) acc[p][v] = fma(value, weight[v], acc[p][v]);
      }
    }
  }
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

/// Rows of neighbouring cells with the positions of their first cells in up to three tensors.
struct Rows {
  Index count, length;
  bool flat;
  Shape shape;
  explicit Rows(const Shape& s, bool may_flatten) : flat(may_flatten), shape(s) {
    constexpr Index flat_row = 16 * tile_cells;
    length = flat ? flat_row : s.x;
    count = flat ? (s.cells() + flat_row - 1) / flat_row : s.b * s.t * s.y;
  }
  Index cells_of(Index row) const { return flat ? std::min(length, shape.cells() - row * length) : length; }
  template <class T> auto* start(T& tensor, Index row) const {
    if (flat) return tensor.cell(0, 0, 0, 0) + row * length * tensor.shape().c;
    const Index y = row % shape.y, t = row / shape.y % shape.t, b = row / shape.y / shape.t;
    return tensor.cell(b, t, y, 0);
  }
};

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

/// acc += x dy over the cells of one row, for `Inputs` input and one block of output channels.
template <int Inputs>
void weight_tile(const float* x, Index x_stride, const float* dy, Index dy_stride, Index cells, float* dw,
                 Index dw_stride) {
  Vec acc[Inputs][2];
  for (auto& row : acc) row[0] = row[1] = Vec::zero();
  for (Index i = 0; i < cells; ++i, x += x_stride, dy += dy_stride) {
    const Vec d0 = Vec::load(dy), d1 = Vec::load(dy + simd::width);
    for (int p = 0; p < Inputs; ++p) {
      const Vec value = Vec::broadcast(x[p]);
      acc[p][0] = fma(value, d0, acc[p][0]);
      acc[p][1] = fma(value, d1, acc[p][1]);
    }
  }
  for (int p = 0; p < Inputs; ++p)
    for (int v = 0; v < 2; ++v) {
      float* out = dw + p * dw_stride + v * simd::width;
      (Vec::load(out) + acc[p][v]).store(out);
    }
}

using WeightKernel = decltype(&weight_tile<1>);
template <int... Counts> constexpr auto weight_table(std::integer_sequence<int, Counts...>) {
  return std::array<WeightKernel, sizeof...(Counts)>{&weight_tile<Counts + 1>...};
}

/// Output channels that do not fill a block of vectors.
void weight_tail(const float* x, Index x_stride, const float* dy, Index dy_stride, Index cells, int c_in,
                 int outputs, float* dw, Index dw_stride) {
  for (int ci = 0; ci < c_in; ++ci)
    for (int j = 0; j < outputs; ++j) {
      float sum = 0;
      for (Index i = 0; i < cells; ++i) sum = std::fma(x[i * x_stride + ci], dy[i * dy_stride + j], sum);
      dw[ci * dw_stride + j] += sum;
    }
}

} // namespace

PackedWeights pack(const Tensor& weight, const Stencil& stencil) {
  const auto c_in = static_cast<int>(weight.shape().x), c_out = static_cast<int>(weight.shape().c);
  const float* w = weight.cell(0, 0, 0, 0);
  return pack_with(stencil, c_in, c_out,
                   [&](int tap, int ci, int co) { return w[(Index{tap} * c_in + ci) * c_out + co]; });
}

PackedWeights pack_transposed(const Tensor& weight, const Stencil& stencil) {
  const auto c_in = static_cast<int>(weight.shape().x), c_out = static_cast<int>(weight.shape().c);
  const float* w = weight.cell(0, 0, 0, 0);
  const int last = stencil.taps() - 1;
  return pack_with(transposed(stencil), c_out, c_in, [&](int tap, int from, int to) {
    return w[(Index{last - tap} * c_in + to) * c_out + from];
  });
}

void convolve(const Tensor& x, const PackedWeights& w, const float* bias, const Tensor* residual, Tensor& y) {
  const Shape& s = y.shape();
  assert(x.shape().c == w.c_in && s.c == w.c_out);
  assert(x.shape().x == s.x && x.shape().y == s.y && x.shape().t == s.t);
  static constexpr auto one = tile_table<1>(std::make_integer_sequence<int, tile_cells>{});
  static constexpr auto two = tile_table<2>(std::make_integer_sequence<int, tile_cells>{});
  const auto& kernels = w.block == simd::width ? one : two;

  const int taps = w.stencil.taps(), blocks = (w.c_out + w.block - 1) / w.block;
  const std::vector<Index> offsets = tap_offsets(x, w.stencil);
  std::vector<float> padded_bias(static_cast<std::size_t>(blocks) * w.block, 0.0F);
  if (bias) std::copy_n(bias, w.c_out, padded_bias.begin());
  const Rows rows(s, taps == 1 && x.dense() && y.dense() && (!residual || residual->dense()));
  const Index panel = Index{taps} * w.c_in * w.block;

  parallel_for(rows.count, [&](Index row) {
    const float* xr = rows.start(x, row);
    float* yr = rows.start(y, row);
    const float* rr = residual ? rows.start(*residual, row) : nullptr;
    const Index cells = rows.cells_of(row);
    for (int block = 0; block < blocks; ++block) {
      const int first = block * w.block, valid = std::min(w.block, w.c_out - first);
      for (Index i = 0; i < cells; i += tile_cells) {
        const auto n = static_cast<std::size_t>(std::min<Index>(tile_cells, cells - i));
        kernels[n - 1](xr + i * w.c_in, w.c_in, offsets.data(), taps, w.c_in, w.data.data() + block * panel,
                       bias ? padded_bias.data() + first : nullptr, rr ? rr + i * w.c_out + first : nullptr,
                       w.c_out, yr + i * w.c_out + first, w.c_out, valid);
      }
    }
  });
}

void convolve_weight_gradient(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                              float* db) {
  static constexpr auto kernels = weight_table(std::make_integer_sequence<int, tile_inputs>{});
  constexpr int block = 2 * simd::width;
  const auto c_in = static_cast<int>(x.shape().c), c_out = static_cast<int>(dy.shape().c);
  const int taps = stencil.taps(), blocks = (c_out + block - 1) / block;
  const std::vector<Index> offsets = tap_offsets(x, stencil);
  const Rows rows(dy.shape(), taps == 1 && x.dense() && dy.dense());
  float* const w = dw.cell(0, 0, 0, 0);

  // One unit of work owns some weights and walks all cells, so no partial sums meet between threads. Rows are
  // the outer loop of a group of units: they stay in the cache while the taps pass over them.
  const int units = taps * blocks, group_size = std::max(1, (units + 7) / 8);
  parallel_for((units + group_size - 1) / group_size, [&](Index group) {
    const int from = static_cast<int>(group) * group_size, to = std::min(units, from + group_size);
    for (Index row = 0; row < rows.count; ++row) {
      const float* xr = rows.start(x, row);
      const float* dr = rows.start(dy, row);
      const Index cells = rows.cells_of(row);
      for (int unit = from; unit < to; ++unit) {
        const int tap = unit / blocks, first = unit % blocks * block,
                  outputs = std::min(block, c_out - first);
        const float* xt = xr + offsets[static_cast<std::size_t>(tap)];
        float* wt = w + Index{tap} * c_in * c_out + first;
        if (outputs < block) {
          weight_tail(xt, c_in, dr + first, c_out, cells, c_in, outputs, wt, c_out);
          continue;
        }
        for (int ci = 0; ci < c_in; ci += tile_inputs) {
          const auto n = static_cast<std::size_t>(std::min(tile_inputs, c_in - ci));
          kernels[n - 1](xt + ci, c_in, dr + first, c_out, cells, wt + Index{ci} * c_out, c_out);
        }
      }
    }
  });
  if (!db) return;
  for (Index row = 0; row < rows.count; ++row) {
    const float* dr = rows.start(dy, row);
    std::vector<float> sum(static_cast<std::size_t>(c_out), 0.0F);
    for (Index i = 0; i < rows.cells_of(row); ++i)
      for (int c = 0; c < c_out; ++c) sum[static_cast<std::size_t>(c)] += dr[i * c_out + c];
    for (int c = 0; c < c_out; ++c) db[c] += sum[static_cast<std::size_t>(c)];
  }
}

} // namespace pluvia
