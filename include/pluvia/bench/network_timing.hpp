#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "pluvia/train/adam.hpp"
#include "pluvia/train/device_step.hpp"
#include "pluvia/train/step_recorder.hpp"

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
  /// ny x nx cells of level 0 over all ranks of each stage of each replica in `comm`, which must outlive it.
  /// Throws a usage Error when the ranks do not fit the grid.
  NetworkTiming(const Communicator& comm, const Settings& settings, Precision precision, Device device,
                Index ny, Index nx);

  /// One sample forward through the whole network on the ranks of each stage, nothing kept.
  void forecast(Profile* profile = nullptr);
  /// bench.samples a replica forward and backward, gradients summed, one update.
  StepPhases step(Profile* profile = nullptr);
  /// Why steps cannot be recorded on an accelerator; empty: they can.
  const std::string& obstacle() const { return obstacle_; }
  /// The same step, recorded once and replayed. Precondition: there is no obstacle.
  void recorded_step();

  std::int64_t parameters() { return network_.parameters().size(); }
  /// What the optimiser keeps on this rank.
  std::int64_t optimiser_bytes() const {
    return static_cast<std::int64_t>(adam_.first.storage().size_bytes() +
                                     adam_.second.storage().size_bytes() +
                                     adam_.average.storage().size_bytes());
  }
  const Decomposition& tiles() const { return tiles_; }
  const ProcessGrid& grid() const { return grid_; }
  const Stages& stages() const { return pipeline_.stages(); }
  const StUnetPorts& ports() const { return ports_; }

private:
  struct Watch;
  /// Forward and backward through all samples, and the sums of gradients; how long these were hidden.
  double gradients(Watch* watch, Profile* profile);
  const Communicator& comm_;
  ProcessGrid grid_;
  Precision precision_;
  Tape::Keep keep_;
  StUnetPorts ports_;
  Decomposition tiles_;
  StUnet network_;
  Pipeline pipeline_;
  int samples_;
  std::vector<Parameter*> parameters_;
  ParameterShards shards_;
  Adam adam_;
  GradientBlocks blocks_;
  Var input_, base_;
  Target target_;
  GradientLink gradients_; ///< of accelerators
  std::optional<DeviceStep> there_;
  std::string obstacle_ = "they are no accelerator's";
  StepRecorder recorder_; ///< gone before the links whose messages it recorded
};

} // namespace pluvia
