#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "pluvia/model/checkpoint.hpp"
#include "pluvia/train/adam.hpp"

namespace pluvia {

/// The averaged weights with the lowest loss in validation: those that this rank owns.
struct BestWeights {
  double loss = std::numeric_limits<double>::infinity();
  std::int64_t step = 0;
  std::vector<float> values;
  /// Has there been a validation whose loss was finite?
  bool known() const { return std::isfinite(loss); }
};

/// What a training goes on from after a pause, or goes back to: of weights and what belongs to them, those
/// that this rank owns. A plain value, on the host.
struct TrainingState {
  std::int64_t step = 0;
  double rate_factor = 1; ///< of the learning rate; less after training went back
  std::vector<float> weights, average, first, second;
  BestWeights best;
};

/// Numbers that a training keeps for each weight that a rank owns: two moments, the average, the best, and
/// all of them with the weight as saved last.
inline constexpr int kept_per_weight = 3 + 1 + 5;

/// Local.
TrainingState state_of(const ParameterShards& shards, const Adam& adam, const BestWeights& best,
                       double rate_factor);
/// Gives the weights of a state to all ranks, and the rest of it to the optimiser. Collective.
void set_state(const TrainingState& state, ParameterShards& shards, Adam& adam);

// To and from checkpoints, whatever ranks wrote them.

void store_state(const TrainingState& state, const ParameterShards& shards, Checkpoint& checkpoint);
/// To forecast with: the best weights alone.
void store_best(const BestWeights& best, double rate_factor, const ParameterShards& shards,
                Checkpoint& checkpoint);
/// What a rank needs of a checkpoint to go on. `shards` must outlive it.
WantedRun own_runs(const ParameterShards& shards);
/// From a checkpoint that was read with own_runs(). Throws a data Error, which names `path`, when it is not
/// of this network or was saved to forecast with alone.
TrainingState load_state(const Checkpoint& checkpoint, const ParameterShards& shards,
                         const std::string& path);

} // namespace pluvia
