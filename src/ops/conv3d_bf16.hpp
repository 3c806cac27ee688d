#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

/// Weights rounded to bf16 for the matrix unit. At one (t, y) tap the values of neighbouring x taps and all
/// input channels follow each other in memory, so they are one dimension to sum over, cut into steps of 32
/// with zeros beyond its end.
struct PackedBf16 {
  Stencil stencil;
  int c_in = 0, c_out = 0;
  int steps = 0;                   ///< of 32 values at each (t, y) tap
  int tiles = 0;                   ///< of 16 output channels
  std::vector<std::uint16_t> data; ///< [tiles, (t, y) taps, steps, 16 pairs, 16 output channels, 2]
};
PackedBf16 pack_bf16(const Tensor& weight, const Stencil& stencil);
PackedBf16 pack_transposed_bf16(const Tensor& weight, const Stencil& stencil);

/// As convolve and convolve_weight_gradient, with x, w and dy rounded to bf16. Need has_native_bf16().
void convolve_bf16(const Tensor& x, const PackedBf16& w, const float* bias, const Tensor* residual,
                   Tensor& y);
void convolve_weight_gradient_bf16(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                                   float* db);

} // namespace pluvia
