#pragma once
#include <span>

#include "pluvia/ad/profile.hpp"
#include "pluvia/core/precision.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/ops/output_parts.hpp"

namespace pluvia {

/// Taps of a stride-1 convolution: extents, and where the first tap lies relative to the output cell.
struct Stencil {
  int t = 1, y = 1, x = 1;
  int t_first = 0, y_first = 0, x_first = 0;
  int taps() const { return t * y * x; }
  bool operator==(const Stencil&) const = default;
};
/// Odd spatial extents around the cell; time extents end at the output's own frame, so that the output of
/// frame t sees frames <= t alone.
Stencil causal_stencil(int t, int y, int x);
/// The stencil of the transposed convolution.
Stencil transposed(const Stencil& s);
/// Ghost cells that a stencil reads around its output.
Margin reach(const Stencil& s);

/// Weights [t, y, x, C_in, C_out] arranged for the processor's registers: made once per use, not stored.
struct PackedWeights {
  Stencil stencil;
  int c_in = 0, c_out = 0;
  int block = 0; ///< output channels computed together
  Tensor data;   ///< [1, blocks, taps, C_in, block], zero beyond C_out
  int blocks() const { return (c_out + block - 1) / block; }
};
PackedWeights pack(const Tensor& weight, const Stencil& stencil);
/// For the gradient of the input: taps mirrored, channels exchanged.
PackedWeights pack_transposed(const Tensor& weight, const Stencil& stencil);

/// y = bias + sum over taps and input channels of x w (+ residual): [B, T, Y, X, C_in] -> [B, T, Y, X,
/// C_out]. x must have at least the stencil's reach as margin, filled. Every output is one chain of fused
/// multiply-adds in the order of taps and channels, so its bits depend on nothing but its inputs: not on the
/// tile, the thread count or the vector width. bias [C_out] and residual may be null. Where
/// parts are given, only the outputs in these, which read no more of x. Local.
void convolve(const Tensor& x, const PackedWeights& w, const float* bias, const Tensor* residual, Tensor& y,
              std::span<const OutputPart> parts = {});

/// dw += sum over cells of x dy, db += sum of dy (db may be null). x as in convolve, with all its margins
/// filled; dw [t, y, x, C_in, C_out]. The same bits for every thread count. Local.
void convolve_weight_gradient(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                              float* db);

/// What of this processor multiplies bf16: a unit for matrices (AMX), where the operating system grants it to
/// this process, or else its vectors (AVX512_BF16). They add in different orders. Local.
enum class Bf16Unit { none, avx512, amx };
Bf16Unit bf16_unit();
/// Only then may Precision::bf16 be asked for below. Local.
inline bool has_native_bf16() {
  return bf16_unit() != Bf16Unit::none;
}

// What operators call: y = bias + w * x (+ residual) and its gradients, in f32 as above, or with x, w and dy
// rounded to bf16. There, too, every output is a sum in an order that depends neither on the tile nor on the
// threads. Local but for the arrival.
/// Where margins of x are still on their way, the outputs inside are computed before the arrival fills them,
/// to the same bits.
void convolution(Precision precision, const Tensor& x, const Tensor& weight, const Stencil& stencil,
                 const float* bias, const Tensor* residual, Tensor& y, const Split& split = {},
                 const Arrival& arrival = {});
/// Neighbouring outputs of a row of so many that the host computes together: a part of a row that is no
/// multiple of it costs more than its share.
Index cells_at_once(Precision precision, Index row);
/// dx = w' * dy (+ addend, which may be dx itself).
void convolution_pull_input(Precision precision, const Tensor& dy, const Tensor& weight,
                            const Stencil& stencil, const Tensor* addend, Tensor& dx);
/// dw += and db += as convolve_weight_gradient.
void convolution_pull_weight(Precision precision, const Tensor& x, const Tensor& dy, const Stencil& stencil,
                             Tensor& dw, float* db);

/// The arithmetic of a convolution to `output` with weights [t, y, x, C_in, C_out], and of its gradients: of
/// the weights, which so many ranks share out, and of the input when that is wanted.
inline Work convolution_work(std::string_view name, const Shape& output, const Shape& weight,
                             bool input_gradient, int members = 1) {
  const double flop = 2.0 * static_cast<double>(output.cells() * weight.size());
  return {name, weight.x, flop, input_gradient ? flop + flop / members : flop / members};
}

} // namespace pluvia
