#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/parallel/parameter_shards.hpp"

namespace pluvia {

struct AdamThere;

/// Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), betas 0.9 and 0.98, and a
/// moving average of the weights with decay min(0.999, (1 + t) / (10 + t)). State of those values of one
/// network that this rank owns, one after the other, where the weights lie.
struct Adam {
  std::int64_t step = 0;                      ///< updates made
  Tensor first, second;                       ///< moments
  Tensor average;                             ///< of the weights
  std::shared_ptr<AdamThere> there = nullptr; ///< of updates on an accelerator
};
/// On an accelerator all of the parameters' arrays must stay where they are. Local.
Adam make_adam(const ParameterShards& shards);

/// Euclidean norm of all gradients, each parameter once, summed in f64 in the order of names. On processors;
/// Local.
double gradient_norm(const std::vector<Parameter*>& parameters);

/// One update from the gradients times `gradient_scale`: every rank makes that of its own weights, which then
/// go to all others of its group. On processors; collective over the shards' ranks.
void update(Adam& adam, ParameterShards& shards, double learning_rate, double weight_decay,
            double gradient_scale);

// On accelerators, without waiting for them where there is one rank, or a link between all:

/// Counts an update and sends what it takes from the step. Local.
void send_rates(Adam& adam, double learning_rate, double weight_decay);
/// The update, from gradients that are scaled so that the norm of all of them, which is left in *norm, is
/// clip_norm at most; nothing changes where it is not finite. Reads what was sent last when it is done: it
/// may be recorded. Collective over the shards' ranks.
void update_there(Adam& adam, ParameterShards& shards, double clip_norm, double* norm);

/// Exchanges the weights with their moving average; again to undo. Collective over the shards' ranks.
void swap_average(Adam& adam, ParameterShards& shards);

/// Linear warm-up to `peak`, then cosine to a hundredth of it at `steps` (Loshchilov & Hutter 2017).
double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps);

} // namespace pluvia
