#pragma once
#include <cstdint>
#include <map>
#include <optional>

#include "pluvia/core/settings.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/train/device_step.hpp"
#include "pluvia/train/step_recorder.hpp"
#include "pluvia/train/trainee.hpp"

namespace pluvia {

/// Seconds of one training step, phase by phase; halo times lie within forward and backward. The reduction is
/// what summing gradients adds to the step. By the clock of the device that takes it, but for halos and what
/// is hidden of the sums, of which the host sees what goes through it.
struct StepPhases {
  double forward = 0, loss = 0, backward = 0, stages = 0, reduction = 0, optimiser = 0; ///< stages: waiting
  double hidden = 0; ///< part of backward: sums of gradients are on their way
  HaloCost halo;
  std::map<Layer, HaloCost> layers; ///< the same, layer by layer
  StageTimeline timeline;           ///< of this rank's stage
  double total() const { return forward + loss + backward + stages + reduction + optimiser; }
};

/// A network on random input of a given size: what is timed when a step or a forecast is. Precondition of
/// all: collective over the communicator.
class NetworkTiming {
public:
  /// ny x nx cells of level 0 over all ranks of each stage of each replica in `comm`; it and the settings
  /// must outlive it. Throws a usage Error when the ranks do not fit the grid.
  NetworkTiming(const Communicator& comm, const Settings& settings, Precision precision, Device device,
                Index ny, Index nx);

  /// One sample forward through the whole network on the ranks of each stage, nothing kept.
  void forecast(Profile* profile = nullptr);
  /// bench.samples a replica forward and backward, gradients summed, one update.
  StepPhases step(Profile* profile = nullptr);
  /// The same step, recorded once and replayed. Precondition: the trainee has no obstacle to it.
  void recorded_step();

  /// What is timed.
  Trainee& trainee() { return trainee_; }

private:
  struct Watch;
  /// Forward and backward through all samples, and the sums of gradients; how long these were hidden.
  double gradients(Watch* watch, Profile* profile);
  const Communicator& comm_;
  const Settings& settings_;
  Trainee trainee_;
  Var input_, base_;
  Target target_;
  std::optional<DeviceStep> there_;
  StepRecorder recorder_; ///< gone before the links whose messages it recorded
};

} // namespace pluvia
