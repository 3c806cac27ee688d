#include "pluvia/ops/linear.hpp"

#include "pluvia/ops/convolution_gradients.hpp"

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
    pull_convolution(tape, node, precision, x, weight, bias, {}, residual);
  };
  return tape.record(std::move(y), work, pull, {}, {&weight, &bias});
}

} // namespace pluvia
