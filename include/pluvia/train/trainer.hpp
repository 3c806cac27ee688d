#pragma once
#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/core/settings.hpp"

namespace pluvia {

enum class TrainOutcome {
  finished,
  stopped ///< asked to stop by a signal; saved, can go on
};

/// Trains a network on data.train, keeps the weights (their moving average) with the lowest loss on
/// data.validate, calibrates those on data.validate, and leaves in train.output: config.yaml, log.jsonl,
/// checkpoint_NNNNNNNN.h5 and checkpoint_best.h5. SIGTERM and SIGUSR1 end it after the current step with
/// everything saved. Samples are drawn in an order that depends on the seed and the step alone, so that a run
/// that goes on from a checkpoint continues as if it had never stopped. Collective over `world`.
TrainOutcome run_training(const Communicator& world, const Settings& settings, const Log& log);

} // namespace pluvia
