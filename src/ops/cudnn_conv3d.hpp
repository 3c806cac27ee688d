#pragma once
#include "kernels.hpp"

// Products of bf16 on the tensor cores of a GPU: dense convolutions by cuDNN, linear layers by cuBLASLt.
// Operands are rounded to bf16 into buffers of their own; sums are f32 inside, and the results of
// convolutions pass through bf16. What the functions of kernels.hpp say holds but for the bits, which are the
// libraries'. Local.
namespace pluvia::kernels::cudnn {

/// In one piece, once the margins have arrived: thin parts would each ask for a call of the library, and a
/// pass before and behind it. What a message hides behind is the rounding of the weights and of the tile's
/// own cells.
void convolve(const ConstView& x, const float* weight, Weights form, const Stencil& stencil,
              const float* bias, const ConstView& residual, const View& y, const Arrival& arrival);
/// Adds to dw.
void convolve_weight_gradient(const ConstView& x, const ConstView& dy, const Stencil& stencil, float* dw);

} // namespace pluvia::kernels::cudnn
