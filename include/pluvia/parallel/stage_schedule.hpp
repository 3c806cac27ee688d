#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pluvia {

// The instructions of a pipeline over the depth of a network, as plain data: nothing here communicates.

/// One thing that a stage does for a micro-batch.
struct Instruction {
  enum class Kind {
    receive_values,
    forward,
    send_values,
    receive_gradients,
    backward_inputs, ///< gradients of what the stage was given: others wait for them
    send_gradients,
    backward_weights ///< gradients of parameters: nobody waits for them
  };
  Kind kind;
  int micro_batch;
  int peer = -1; ///< stage, of messages
  bool operator==(const Instruction&) const = default;
};

/// A stage that uses values which another one makes, and returns their gradients.
struct StageLink {
  int from, to;
  bool operator==(const StageLink&) const = default;
};

/// From each stage to the next.
std::vector<StageLink> chain_of(int stages);

/// What one stage does in a step, in this order: as many samples go forward as there are stages from here to
/// the last; then each backward pass of inputs makes room for one more forward (one forward, one backward:
/// Narayanan et al. 2019). The gradients of weights follow `stage` samples later, so that the last backward
/// pass comes to the first stage early and they fill its way there (ZB-H1 of Qi et al. 2023,
/// arXiv:2401.10241). At once a stage holds the activations of min(stages - stage, micro_batches) samples
/// whose inputs are not pulled back, and what weights wait for of `stage` samples more. With stages S,
/// micro-batches M and three passes that take one unit each a step takes 3 M + S - 1 + max(0, S - M) units; a
/// pipeline that does not divide the backward pass, 3 (M + S - 1). `links` run from earlier to later stages.
/// Local.
std::vector<Instruction> list_instructions(int stages, int stage, int micro_batches,
                                           std::span<const StageLink> links);

/// Of how many samples a stage holds at once, at most, all activations, and what their gradients of weights
/// wait for; the first stage, whose own follow at once, of none.
constexpr int samples_in_flight(int stages, int stage, int micro_batches) {
  return stages - stage < micro_batches ? stages - stage : micro_batches;
}
constexpr int samples_deferred(int stage, int micro_batches) {
  return stage < micro_batches ? stage : micro_batches;
}

/// When something was done [seconds, or any unit].
struct Moment {
  Instruction what;
  double begin = 0, end = 0;
};
using StageTimeline = std::vector<Moment>;

/// What the passes of a stage take; messages take no time.
struct StageCosts {
  double forward = 1, backward_inputs = 1, backward_weights = 1;
};
/// When each instruction of each stage is done if it begins as soon as the one before has ended and what it
/// receives has been sent, which waits for nobody. Nothing when some stage waits for ever. Local.
std::optional<std::vector<StageTimeline>> simulate(std::span<const std::vector<Instruction>> stages,
                                                   std::span<const StageCosts> costs);

/// Is it work, not a message?
bool is_pass(Instruction::Kind kind);
/// From the first beginning to the last end.
double duration(std::span<const StageTimeline> timelines);
/// Time of the stages together that no pass fills.
double idle_share(std::span<const StageTimeline> timelines);
/// One line per stage, `width` characters from beginning to end: F, B and W with the sample's number for the
/// forward pass, that backward to inputs and that to weights, dots where a stage waits.
std::string draw(std::span<const StageTimeline> timelines, int width);

} // namespace pluvia
