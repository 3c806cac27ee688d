#include "pluvia/ops/loss.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

constexpr int max_classes = 32;

/// Softmax of a few classes; returns the logarithm of its normaliser.
float softmax(const float* logits, int n, float* p) {
  const float top = *std::max_element(logits, logits + n);
  float sum = 0;
  for (int k = 0; k < n; ++k) sum += p[k] = exp_f32(logits[k] - top);
  for (int k = 0; k < n; ++k) p[k] /= sum;
  return top + std::log(sum);
}

} // namespace

FixedSum ordinal_loss(const Var& logits, const Target& target, const Tape& tape) {
  const Shape s = logits->value.shape();
  const int n = static_cast<int>(s.c), thresholds = n - 1;
  assert(n <= max_classes);
  Tensor grad;
  if (tape.recording()) grad = Tensor(s, logits->grad_margin);
  const Index rows = s.b * s.t * s.y;
  std::vector<FixedSum> partial(static_cast<std::size_t>(rows));
  parallel_for(rows, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const float weight = target.weights[static_cast<std::size_t>(row)];
    const std::int8_t* classes = target.classes.data() + row * s.x;
    FixedSum& sum = partial[static_cast<std::size_t>(row)];
    for (Index x = 0; x < s.x; ++x) {
      float p[max_classes], excess[max_classes];
      const int c = classes[x];
      float* g = tape.recording() ? grad.cell(b, t, y, x) : nullptr;
      if (c < 0 || weight == 0.0F) {
        if (g) std::fill_n(g, n, 0.0F);
        continue;
      }
      const float* z = logits->value.cell(b, t, y, x);
      const float normaliser = softmax(z, n, p);
      float cumulative = 0, score = 0;
      for (int k = 0; k < thresholds; ++k) {
        cumulative += p[k];
        excess[k] = cumulative - (c <= k ? 1.0F : 0.0F);
        score += excess[k] * excess[k];
      }
      const float scale = 1.0F / static_cast<float>(thresholds);
      sum.add(static_cast<double>(weight) * (normaliser - z[c] + score * scale));
      if (!g) continue;
      // d score / d p_j = 2 sum_{k >= j} excess_k; then through the softmax.
      float slope[max_classes], mean = 0, tail = 0;
      slope[thresholds] = 0;
      for (int k = thresholds - 1; k >= 0; --k) slope[k] = tail += 2.0F * scale * excess[k];
      for (int k = 0; k < n; ++k) mean += slope[k] * p[k];
      for (int k = 0; k < n; ++k) g[k] = weight * (p[k] * (1.0F + slope[k] - mean) - (k == c ? 1.0F : 0.0F));
    }
  });
  if (tape.recording()) accumulate(*logits, std::move(grad));
  FixedSum total;
  for (const FixedSum& sum : partial) total.add(sum);
  return total;
}

void exceedance(const float* logits, int classes, float* probability) {
  float p[max_classes];
  softmax(logits, classes, p);
  float above = 0;
  for (int k = classes - 1; k > 0; --k) probability[k - 1] = above += p[k];
}

} // namespace pluvia
