#include "pluvia/ops/linear.hpp"

#include "pluvia/ops/weight_gradient.hpp"

namespace pluvia {

Var linear(Tape& tape, const Var& x, Parameter& weight, Parameter& bias, const Var& residual,
           Margin out_margin) {
  Shape s = x->value.shape();
  s.c = weight.value.shape().c;
  Tensor y(s, out_margin, x->value.device());
  // Fewer input channels than the matrix unit sums at once are faster, and exact, in f32; on vectors of bf16,
  // too, for values are rounded for few products each.
  const Precision precision = x->value.shape().c < 32 ? Precision::f32 : tape.precision();
  convolution(precision, x->value, weight.value, {}, bias.value.cell(0, 0, 0, 0),
              residual ? &residual->value : nullptr, y);
  const Work work = convolution_work("linear", s, weight.value.shape(), x->needs_grad, tape.blocks().members);
  const auto pull = [&tape, precision, x, &weight, &bias, residual](Node& node) {
    const auto pull_weight = [blocks = tape.blocks(), precision, x, &weight, &bias](const Tensor& dy) {
      pull_convolution_weight(blocks, precision, x->value, dy, {}, weight, &bias);
    };
    if (!tape.defers()) pull_weight(node.grad);
    if (x->needs_grad) {
      const GradientSlot dx = gradient_slot(*x);
      convolution_pull_input(precision, node.grad, weight.value, {}, dx.addend, dx.target);
    }
    if (!tape.defers()) {
      if (residual) pass_gradient(node, *residual);
      return;
    }
    if (residual) copy_gradient(node, *residual);
    tape.defer(pull_weight, std::move(node.grad));
  };
  return tape.record(std::move(y), work, pull, {}, {&weight, &bias});
}

} // namespace pluvia
