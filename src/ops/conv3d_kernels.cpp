#include <bit>

#include "for_parts.hpp"
#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"
#ifdef __CUDACC__
#include "cudnn_conv3d.hpp"
#endif

namespace pluvia::kernels {

namespace {

/// To bf16, the nearest, ties to even.
PLUVIA_ANYWHERE float rounded(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fffU + ((bits >> 16) & 1U)) & 0xffff0000U);
}
template <bool bf16> PLUVIA_ANYWHERE float operand(float value) {
  return bf16 ? rounded(value) : value;
}

/// Weights of a convolution from c_in to c_out channels, or, mirrored, of one that led the other way.
struct WeightAt {
  const float* weights;
  Index c_in, c_out, last_tap;
  bool transposed;
  PLUVIA_ANYWHERE float operator()(Index tap, Index ci, Index co) const {
    return transposed ? weights[((last_tap - tap) * c_out + co) * c_in + ci]
                      : weights[(tap * c_in + ci) * c_out + co];
  }
};

// Neighbouring outputs of a row, and channels, that one thread works on: each value it reads serves four
// sums. Loops over these end where the compiler sees it, or the sums would not lie in registers.
constexpr int tile_cells = 4, tile_channels = 4;

/// The plain convolution: each output one chain of fused multiply-adds in the order of taps and channels.
template <bool bf16>
void convolve_plainly(const ConstView& x, const WeightAt& w, const Stencil& stencil, const float* bias,
                      const ConstView& residual, const View& y, std::span<const OutputPart> parts) {
  const Index groups = (w.c_out + tile_channels - 1) / tile_channels;
  const auto tile = [=] PLUVIA_ANYWHERE(const CellAt& at, Index cells, Index group) {
    const Index c0 = group * tile_channels;
    const int channels = static_cast<int>(w.c_out - c0 < tile_channels ? w.c_out - c0 : tile_channels);
    float sum[tile_cells][tile_channels];
    for (int i = 0; i < tile_cells; ++i)
      for (int j = 0; j < tile_channels; ++j) sum[i][j] = bias && j < channels ? bias[c0 + j] : 0.0F;
    Index tap = 0;
    for (int kt = 0; kt < stencil.t; ++kt)
      for (int ky = 0; ky < stencil.y; ++ky)
        for (int kx = 0; kx < stencil.x; ++kx, ++tap) {
          const float* from[tile_cells];
          for (int i = 0; i < tile_cells; ++i)
            from[i] = x.cell(at.b, at.t + kt + stencil.t_first, at.y + ky + stencil.y_first,
                             at.x + (i < cells ? i : 0) + kx + stencil.x_first);
          for (Index ci = 0; ci < w.c_in; ++ci) {
            float weight[tile_channels];
            for (int j = 0; j < tile_channels; ++j)
              weight[j] = operand<bf16>(w(tap, ci, c0 + (j < channels ? j : 0)));
            for (int i = 0; i < tile_cells; ++i) {
              const float value = operand<bf16>(from[i][ci]);
              for (int j = 0; j < tile_channels; ++j) sum[i][j] = std::fma(value, weight[j], sum[i][j]);
            }
          }
        }
    for (int i = 0; i < tile_cells && i < cells; ++i) {
      float* to = y.cell(at.b, at.t, at.y, at.x + i) + c0;
      const float* more = residual.origin ? residual.cell(at.b, at.t, at.y, at.x + i) + c0 : nullptr;
      for (int j = 0; j < tile_channels && j < channels; ++j) to[j] = more ? sum[i][j] + more[j] : sum[i][j];
    }
  };
  for_runs(y.shape, parts, tile_cells, groups, tile);
}

/// Rows are summed in chunks by themselves, and the chunks in order.
template <bool bf16>
void weight_gradient_plainly(const ConstView& x, const ConstView& dy, const Stencil& stencil, float* dw) {
  const Index c_in = x.shape.c, c_out = dy.shape.c, rows = dy.shape.b * dy.shape.t * dy.shape.y,
              groups = (c_out + tile_channels - 1) / tile_channels, taps = stencil.taps(),
              weights = taps * c_in * c_out, units = taps * c_in * groups;
  constexpr Index enough_threads = 1 << 18;
  const Index wanted = (enough_threads + units - 1) / units, chunks = wanted < rows ? wanted : rows;
  Tensor partial({1, 1, 1, chunks, weights}, {}, Device::gpu);
  float* const sums = partial.cell(0, 0, 0, 0);
  launch(chunks * units, [=] PLUVIA_ANYWHERE(Index i) {
    const Division of_chunk = divide(i, units), of_input = divide(of_chunk.rest, groups),
                   of_tap = divide(of_input.quotient, c_in), of_row = divide(of_tap.quotient, stencil.x);
    const Index chunk = of_chunk.quotient, co = of_input.rest * tile_channels, ci = of_tap.rest;
    const Index kx = of_row.rest + stencil.x_first, ky = of_row.quotient % stencil.y + stencil.y_first,
                kt = of_row.quotient / stencil.y + stencil.t_first;
    const int channels = static_cast<int>(c_out - co < tile_channels ? c_out - co : tile_channels);
    float sum[tile_channels] = {};
    for (Index row = rows * chunk / chunks; row < rows * (chunk + 1) / chunks; ++row) {
      const CellAt at = cell_at(dy.shape, row * dy.shape.x);
      const float* from = x.cell(at.b, at.t + kt, at.y + ky, kx) + ci;
      const float* d = dy.cell(at.b, at.t, at.y, 0) + co;
      for (Index ix = 0; ix < dy.shape.x; ++ix, from += c_in, d += c_out)
        for (int j = 0; j < tile_channels; ++j)
          sum[j] = std::fma(operand<bf16>(*from), operand<bf16>(d[j < channels ? j : 0]), sum[j]);
    }
    float* to = sums + chunk * weights + of_input.quotient * c_out + co;
    for (int j = 0; j < tile_channels && j < channels; ++j) to[j] = sum[j];
  });
  launch(weights, [=] PLUVIA_ANYWHERE(Index i) {
    float sum = 0;
    for (Index chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * weights + i];
    dw[i] += sum;
  });
}

} // namespace

void convolve(Precision precision, const ConstView& x, const float* weight, Weights form,
              const Stencil& stencil, const float* bias, const ConstView& residual, const View& y,
              const Split& split, const Arrival& arrival) {
  const WeightAt w{weight, x.shape.c, y.shape.c, stencil.taps() - 1, form == Weights::transposed};
  if (precision == Precision::f32)
    return compute_around(arrival, split, [&](std::span<const OutputPart> parts) {
      convolve_plainly<false>(x, w, stencil, bias, residual, y, parts);
    });
#ifdef __CUDACC__
  const bool first = split.inside.empty() || stencil.taps() == 1; // nothing is computed before
  if (arrival && first) arrival();
  cudnn::convolve(x, weight, form, stencil, bias, residual, y, first ? Arrival{} : arrival);
#else
  compute_around(arrival, split, [&](std::span<const OutputPart> parts) {
    convolve_plainly<true>(x, w, stencil, bias, residual, y, parts);
  });
#endif
}

void convolve_weight_gradient(Precision precision, const ConstView& x, const ConstView& dy,
                              const Stencil& stencil, float* dw, float* db) {
  if (db) add_channel_sums(dy, db);
  if (precision == Precision::f32) return weight_gradient_plainly<false>(x, dy, stencil, dw);
#ifdef __CUDACC__
  cudnn::convolve_weight_gradient(x, dy, stencil, dw);
#else
  weight_gradient_plainly<true>(x, dy, stencil, dw);
#endif
}

} // namespace pluvia::kernels
