#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "pluvia/ad/tape.hpp"

namespace pluvia {

struct AdamThere;

/// Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), betas 0.9 and 0.98, and a
/// moving average of the weights with decay min(0.999, (1 + t) / (10 + t)). State of one network; the same on
/// all ranks, and where the weights lie.
struct Adam {
  struct State {
    Tensor first, second; ///< moments
    Tensor average;       ///< of the weights
  };
  std::int64_t step = 0; ///< updates made
  std::vector<State> states;
  std::shared_ptr<AdamThere> there; ///< of updates on an accelerator
};
/// The parameters' arrays must stay where they are, and those of the states between two updates.
Adam make_adam(const std::vector<Parameter*>& parameters);

/// Euclidean norm of all gradients, each parameter once, summed in f64 in the order of names. On the
/// processor; Local.
double gradient_norm(const std::vector<Parameter*>& parameters);

/// One update from the gradients times `gradient_scale`. On the processor; Local.
void update(Adam& adam, const std::vector<Parameter*>& parameters, double learning_rate, double weight_decay,
            double gradient_scale);

// On an accelerator, without waiting for it; Local.

/// Counts an update and sends what it takes from the step.
void send_rates(Adam& adam, double learning_rate, double weight_decay);
/// The update, from gradients that are scaled so that their norm, which is left in *norm, is clip_norm at
/// most; nothing changes where it is not finite. Reads what was sent last, when it is done: it may be
/// recorded.
void update_there(Adam& adam, double clip_norm, double* norm);

/// Exchanges the weights with their moving average; again to undo. Local.
void swap_average(Adam& adam, const std::vector<Parameter*>& parameters);

/// Linear warm-up to `peak`, then cosine to a hundredth of it at `steps` (Loshchilov & Hutter 2017).
double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps);

} // namespace pluvia
