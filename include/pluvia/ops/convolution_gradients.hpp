#pragma once
#include <functional>

#include "pluvia/ad/gradient_blocks.hpp"
#include "pluvia/ad/tape.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

/// Adds this rank's share of the gradients of a convolution's weight and bias (may be null) by dy: over tiles
/// into grad, or, with blocks, block by block into the order-free sums. x and dy as in
/// convolve_weight_gradient. Local.
void pull_convolution_weight(const GradientBlocks& blocks, Precision precision, const Tensor& x,
                             const Tensor& dy, const Stencil& stencil, Parameter& weight, Parameter* bias);

/// The pull-back of a node that is a convolution of x, plus a residual where given: gradients of weight and
/// bias now, or later where the tape defers them. What reads the margins of node.grad comes after `arrive`,
/// where given. Local.
void pull_convolution(Tape& tape, Node& node, Precision precision, const Var& x, Parameter& weight,
                      Parameter& bias, const Stencil& stencil, const Var& residual,
                      const std::function<void()>& arrive = {});

} // namespace pluvia
