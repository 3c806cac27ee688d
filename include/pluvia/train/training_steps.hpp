#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <vector>

#include "pluvia/core/log.hpp"
#include "pluvia/train/device_step.hpp"
#include "pluvia/train/step_recorder.hpp"
#include "pluvia/train/trainee.hpp"
#include "pluvia/train/training_samples.hpp"

namespace pluvia {

/// Takes a trainee from step to step. On an accelerator the next step may be asked for while one is under
/// way; what they came to is looked at in their order.
class TrainingSteps {
public:
  /// Says how accelerators are linked. All must outlive it. Local.
  TrainingSteps(const Communicator& world, const Settings& settings, const Log& log, Trainee& trainee);

  /// Whether a step may still be under way when take() returns.
  bool on_accelerator() const { return there_.has_value(); }
  /// Takes a step, with so much of the learning rate. Collective over the world.
  void take(std::int64_t number, double rate_factor, TrainingSamples& samples);

  /// What a step came to.
  struct Outcome {
    std::int64_t number = 0;
    bool observed = true; ///< or there was nothing to learn, and nothing was
    double rate = 0;      ///< of learning
    double loss = std::numeric_limits<double>::quiet_NaN();
    double norm = 0; ///< of the gradient
    bool finite() const { return std::isfinite(loss) && std::isfinite(norm); }
  };
  /// Waits for the earliest step that nobody has looked at, but for the latest `under_way`: none of those is
  /// left. Collective over the world.
  std::optional<Outcome> settle(std::size_t under_way);
  /// Forgets the steps that nobody has looked at, when they are done. Local.
  void forget();

private:
  struct Batch;
  void step_here(Batch& batch, Outcome& outcome);
  /// Leaves what it comes to on the accelerator, for settle().
  void step_there(const Batch& batch, double rate);
  /// Forward and backward through all samples, and the sums of gradients over the world.
  void sum_gradients(Pipeline::Batch passes);

  const Communicator& world_;
  const Settings& settings_;
  Trainee& trainee_;
  std::optional<DeviceStep> there_;      ///< on an accelerator
  std::optional<StepRecorder> recorder_; ///< gone before the links whose messages it recorded
  std::deque<Outcome> pending_;          ///< steps that nobody has looked at yet
};

} // namespace pluvia
