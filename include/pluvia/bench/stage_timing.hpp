#pragma once
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/parallel/stage_schedule.hpp"

namespace pluvia {

/// The timelines of all stages, on each of them. Collective over the line that joins them.
std::vector<StageTimeline> gather(const Communicator& line, const StageTimeline& own);

/// Seconds of one stage in a step.
struct StageSeconds {
  StageCosts passes = {0, 0, 0}; ///< of all samples
  double receiving = 0;          ///< values and gradients: waiting for other stages
  double rest = 0;               ///< before the first and after the last instruction, sending
};

/// What steps of a pipeline took.
struct StageReport {
  std::vector<StageSeconds> stages; ///< medians over the steps
  double idle = 0;                  ///< idle_share, median over the steps
  /// The same if every pass of a stage took as long as they do on the average and messages took no time: what
  /// the order of the passes and uneven stages cost by themselves.
  double idle_of_schedule = 0;
};
/// At least one step, all of as many samples. Local.
StageReport summarise(const std::vector<std::vector<StageTimeline>>& steps);

} // namespace pluvia
