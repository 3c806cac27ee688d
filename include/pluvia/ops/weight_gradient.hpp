#pragma once
#include "pluvia/ad/gradient_blocks.hpp"
#include "pluvia/ad/tape.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

/// Adds this rank's share of the gradients of a convolution's weight and bias (may be null) by dy: over tiles
/// into grad, or, with blocks, block by block into the order-free sums. x and dy as in
/// convolve_weight_gradient. Local.
void pull_convolution_weight(const GradientBlocks& blocks, Precision precision, const Tensor& x,
                             const Tensor& dy, const Stencil& stencil, Parameter& weight, Parameter* bias);

} // namespace pluvia
