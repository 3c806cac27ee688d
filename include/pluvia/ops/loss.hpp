#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/fixed_sum.hpp"

namespace pluvia {

/// What a forecast is scored against in training, for one tile.
struct Target {
  std::vector<std::int8_t> classes; ///< [B, leads, Y, X]; -1 where there is no data
  std::vector<float> weights;       ///< [B, leads, Y]: cell area of the row over all that the step divides by
};

/// Loss of ordered classes (cross-entropy plus ranked probability score / K, Epstein 1969):
/// sum over cells of weight (-log p_c + sum_k (F_k - [c <= k])^2 / K), p = softmax(logits), F its running sum
/// over the K + 1 classes. logits [B, leads, Y, X, K + 1]. Returns this tile's share, which adds up to the
/// same bits on any process grid, and, when the tape records, sets the gradient of `logits`. Local.
FixedSum ordinal_loss(const Var& logits, const Target& target, const Tape& tape);

/// The same of logits on an accelerator, without waiting for it: the target is there, too, and the loss is
/// added to *sum. Local.
struct TargetThere {
  const std::int8_t* classes;
  const float* weights;
};
void ordinal_loss(const Var& logits, const TargetThere& target, const Tape& tape, FixedSum* sum);

/// P(amount >= threshold k) for the K thresholds: sums of the upper classes of softmax(logits), so never
/// rising with the threshold. logits and probability: K + 1 and K values. Local.
void exceedance(const float* logits, int classes, float* probability);

} // namespace pluvia
