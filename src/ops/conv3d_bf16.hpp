#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

/// Weights rounded to bf16, as every kernel of bf16 reads them. At one (t, y) tap the values of neighbouring
/// x taps and all input channels follow each other in memory, so they are one dimension to sum over, in
/// pairs, cut into steps of 32 values with zeros beyond its end.
struct PackedBf16 {
  static constexpr int step_values = 32; ///< in one step
  static constexpr int tile_size = 16;   ///< output channels, or cells, in one tile
  static constexpr Index step_block = Index{step_values} * tile_size;
  Stencil stencil;
  int c_in = 0, c_out = 0;
  int steps = 0;                   ///< at each (t, y) tap
  int tiles = 0;                   ///< of output channels
  std::vector<std::uint16_t> data; ///< [tiles, (t, y) taps, steps, 16 pairs, 16 output channels, 2]
  int rows() const { return stencil.t * stencil.y; }
  Index tile_stride() const { return Index{rows()} * steps * step_block; }
};
PackedBf16 pack_bf16(const Tensor& weight, const Stencil& stencil);
PackedBf16 pack_transposed_bf16(const Tensor& weight, const Stencil& stencil);

/// As convolve and convolve_weight_gradient, with x, w and dy rounded to bf16. Need has_native_bf16().
void convolve_bf16(const Tensor& x, const PackedBf16& w, const float* bias, const Tensor* residual, Tensor& y,
                   std::span<const OutputPart> parts = {});
void convolve_weight_gradient_bf16(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                                   float* db);

/// Those two on one kind of unit. Each is made by conv3d_bf16_rows.hpp of a few kernels.
struct Bf16Operators {
  decltype(&convolve_bf16) convolve;
  decltype(&convolve_weight_gradient_bf16) weight_gradient;
};
/// Null where the program was built without, or the processor or the operating system denies it.
const Bf16Operators* amx_operators();
const Bf16Operators* avx512_bf16_operators();

} // namespace pluvia
