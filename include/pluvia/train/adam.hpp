#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/parallel/parameter_shards.hpp"

namespace pluvia {

/// Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), betas 0.9 and 0.98, and a
/// moving average of the weights with decay min(0.999, (1 + t) / (10 + t)). State of those values of one
/// network that this rank owns, one after the other, where the weights lie.
struct Adam {
  std::int64_t step = 0; ///< updates made
  Tensor first, second;  ///< moments
  Tensor average;        ///< of the weights
};
/// Local.
Adam make_adam(const ParameterShards& shards);

/// Euclidean norm of all gradients, each parameter once, summed in f64 in the order of names. Local.
double gradient_norm(const std::vector<Parameter*>& parameters);

/// One update from the gradients times `gradient_scale`: every rank makes that of its own weights, which then
/// go to all others. Collective over the shards' ranks.
void update(Adam& adam, ParameterShards& shards, double learning_rate, double weight_decay,
            double gradient_scale);

/// Exchanges the weights with their moving average; again to undo. Collective over the shards' ranks.
void swap_average(Adam& adam, ParameterShards& shards);

/// Linear warm-up to `peak`, then cosine to a hundredth of it at `steps` (Loshchilov & Hutter 2017).
double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps);

} // namespace pluvia
