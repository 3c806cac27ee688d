#include "pluvia/ops/loss.hpp"

#include <cassert>
#include <utility>

#include "kernels.hpp"
#include "loss_of_cell.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

void ordinal_loss(const Var& logits, const TargetThere& target, const Tape& tape, FixedSum* sum) {
  Tensor grad;
  if (tape.recording()) grad = Tensor(logits->value.shape(), logits->grad_margin, Device::gpu);
  kernels::ordinal_loss(std::as_const(logits->value).view(), target.classes, target.weights, sum,
                        grad.view());
  if (tape.recording()) accumulate(*logits, std::move(grad));
}

FixedSum ordinal_loss(const Var& logits, const Target& target, const Tape& tape) {
  const Shape s = logits->value.shape();
  const int n = static_cast<int>(s.c);
  assert(n <= max_classes);
  if (logits->value.device() == Device::gpu) {
    const DeviceArray<std::int8_t> classes(target.classes);
    const DeviceArray<float> weights(target.weights);
    DeviceArray<FixedSum> sum(std::vector<FixedSum>(1));
    ordinal_loss(logits, {classes.data(), weights.data()}, tape, sum.data());
    return sum.values().front();
  }
  Tensor grad;
  if (tape.recording()) grad = Tensor(s, logits->grad_margin);
  FixedSum total;
  const Index rows = s.b * s.t * s.y;
  std::vector<FixedSum> partial(static_cast<std::size_t>(rows));
  parallel_for(rows, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const float weight = target.weights[static_cast<std::size_t>(row)];
    const std::int8_t* classes = target.classes.data() + row * s.x;
    for (Index x = 0; x < s.x; ++x) {
      const float loss = loss_of_cell(logits->value.cell(b, t, y, x), n, classes[x], weight,
                                      tape.recording() ? grad.cell(b, t, y, x) : nullptr);
      if (classes[x] >= 0 && weight != 0.0F)
        partial[static_cast<std::size_t>(row)].add(static_cast<double>(weight) * loss);
    }
  });
  for (const FixedSum& sum : partial) total.add(sum);
  if (tape.recording()) accumulate(*logits, std::move(grad));
  return total;
}

void exceedance(const float* logits, int classes, float* probability) {
  float p[max_classes];
  softmax(logits, classes, p);
  float above = 0;
  for (int k = classes - 1; k > 0; --k) probability[k - 1] = above += p[k];
}

} // namespace pluvia
