#include "pluvia/ops/convolution_gradients.hpp"

#include <utility>

namespace pluvia {

void pull_convolution(Tape& tape, Node& node, Precision precision, const Var& x, Parameter& weight,
                      Parameter& bias, const Stencil& stencil, const Var& residual,
                      const std::function<void()>& arrive) {
  const auto pull_weight = [blocks = tape.blocks(), precision, x, &weight, &bias, stencil](const Tensor& dy) {
    pull_convolution_weight(blocks, precision, x->value, dy, stencil, weight, &bias);
  };
  if (!tape.defers()) pull_weight(node.grad);
  if (arrive) arrive();
  if (x->needs_grad) {
    const GradientSlot dx = gradient_slot(*x);
    convolution_pull_input(precision, node.grad, weight.value, stencil, dx.addend, dx.target);
  }
  if (!tape.defers()) {
    if (residual) pass_gradient(node, *residual);
    return;
  }
  if (residual) copy_gradient(node, *residual);
  tape.defer(pull_weight, std::move(node.grad));
}

} // namespace pluvia
