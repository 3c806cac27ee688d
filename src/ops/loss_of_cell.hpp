#pragma once
#include "pluvia/core/math.hpp"

namespace pluvia {

constexpr int max_classes = 32;

/// Softmax of a few classes; returns the logarithm of its normaliser. All are no numbers where a logit is
/// none, which exp_f32 and log_f32 would hide.
PLUVIA_ANYWHERE inline float softmax(const float* logits, int n, float* p) {
  float top = logits[0], sum = 0, none = 0;
  for (int k = 0; k < n; ++k) none += logits[k] == logits[k] ? 0.0F : logits[k];
  for (int k = 1; k < n; ++k) top = top < logits[k] ? logits[k] : top;
  for (int k = 0; k < n; ++k) sum += p[k] = exp_f32(logits[k] - top);
  for (int k = 0; k < n; ++k) p[k] = p[k] / sum + none;
  return top + log_f32(sum) + none;
}

/// The loss of one cell of class c, and, where g is not null, its gradient by the n logits z times `weight`;
/// nothing where there is no class or weight.
PLUVIA_ANYWHERE inline float loss_of_cell(const float* z, int n, int c, float weight, float* g) {
  if (c < 0 || weight == 0.0F) {
    if (g)
      for (int k = 0; k < n; ++k) g[k] = 0.0F;
    return 0.0F;
  }
  const int thresholds = n - 1;
  float p[max_classes], excess[max_classes];
  const float normaliser = softmax(z, n, p);
  float cumulative = 0, score = 0;
  for (int k = 0; k < thresholds; ++k) {
    cumulative += p[k];
    excess[k] = cumulative - (c <= k ? 1.0F : 0.0F);
    score += excess[k] * excess[k];
  }
  const float scale = 1.0F / static_cast<float>(thresholds);
  if (g) {
    // d score / d p_j = 2 sum_{k >= j} excess_k; then through the softmax.
    float slope[max_classes], mean = 0, tail = 0;
    slope[thresholds] = 0;
    for (int k = thresholds - 1; k >= 0; --k) slope[k] = tail += 2.0F * scale * excess[k];
    for (int k = 0; k < n; ++k) mean += slope[k] * p[k];
    for (int k = 0; k < n; ++k) g[k] = weight * (p[k] * (1.0F + slope[k] - mean) - (k == c ? 1.0F : 0.0F));
  }
  return normaliser - z[c] + score * scale;
}

} // namespace pluvia
