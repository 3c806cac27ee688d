// ranks: 2 3 4 6
// Stages of a network on ranks of their own: however many there are, on whatever tiles and parts of the
// frames, logits and input gradients of every sample are the bits of one rank, and so are the gradients of
// parameters in blocks; on the same tiles those without blocks are, too.
#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/core/error.hpp"
#include "pluvia/nn/footprint.hpp"
#include "pluvia/nn/operators.hpp"
#include "rank_part.hpp"
#include "training_step.hpp"

namespace pluvia {
namespace {

constexpr Index frames = 3;
constexpr int samples = 4;
const StUnetPorts ports{5, {6, 12, 18, 24}, 4};
const auto leads = static_cast<Index>(ports.lead_hours.size());
const std::vector<std::int64_t> channels{16, 16, 32};

TEST(Stages, CutEvenlyAndNameWhatCrosses) {
  const ModelSettings settings = test::small_network(test::forms()[0], frames, channels);
  const Tiling tiling(40, 48, levels_of(settings), 1, 1);
  const auto pieces = static_cast<Index>(list_pieces(settings).size());
  double all = 0;
  for (const Operator& op : list_operators(settings, ports, tiling, 0))
    all += op.work.flop + op.work.pull_flop;
  for (int count = 1; count <= 3; ++count) {
    const Stages stages = cut_stages(settings, ports, tiling, count);
    ASSERT_EQ(stages.count(), count);
    Index next = 0;
    for (const Span s : stages.pieces) {
      EXPECT_EQ(s.from, next);
      EXPECT_GT(s.size(), 0);
      next = s.to;
    }
    EXPECT_EQ(next, pieces);
    double sum = 0, most = 0;
    for (const StageCosts& c : stage_costs(stages, settings, ports, tiling, 0)) {
      const double stage = c.forward + c.backward_inputs + c.backward_weights;
      sum += stage, most = std::max(most, stage);
    }
    EXPECT_NEAR(sum / all, 1, 1e-12);
    EXPECT_LT(most, 1.5 * all / count);
    const auto whole = estimate_footprint(settings, ports, tiling, 0);
    std::int64_t kept = 0, deferred = 0;
    for (const Span s : stages.pieces) {
      const Footprint part = estimate_footprint(settings, ports, tiling, 0, Tape::Keep::everything, s);
      kept += part.activation_bytes, deferred += part.deferred_bytes;
    }
    EXPECT_EQ(kept, whole.activation_bytes);
    EXPECT_EQ(deferred, whole.deferred_bytes);
    // Neighbours are joined, and every skip that is used in a later stage than where it is made.
    for (const StageLink& link : chain_of(count)) EXPECT_EQ(std::ranges::count(stages.links(), link), 1);
    EXPECT_GE(stages.crossings.size(), static_cast<std::size_t>(count - 1));
  }
}

TEST(Stages, AreNoMoreThanPiecesOrSamples) {
  ModelSettings settings = test::small_network(test::forms()[0], frames, channels);
  settings.channels = {16};
  settings.attention.levels = {};
  EXPECT_NO_THROW(require_stages(settings, 2, 2, "train.batch"));
  EXPECT_THROW(require_stages(settings, 2, 1, "train.batch"), Error);
  EXPECT_THROW(require_stages(settings, 3, 3, "train.batch"), Error);
}

class PipelineOf : public ::testing::TestWithParam<test::Form> {};

TEST_P(PipelineOf, EveryNumberOfStagesGivesTheSameBits) {
  const test::Form& form = GetParam();
  const ModelSettings settings = test::small_network(form, frames, channels);
  constexpr Index ny = 12, nx = 24, block = 8;
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  omp_set_num_threads(1);
  const auto tiling = [&](int rows, int cols) {
    return Tiling(ny, nx, levels_of(settings), rows, cols, form.edge, block);
  };
  const auto evaluate = [&](const Communicator& comm, int stages, const Partition& partition, Index block,
                            Tape::Keep keep) {
    return test::take_step(comm, partition,
                           {.network = settings,
                            .ports = ports,
                            .samples = samples,
                            .block = block,
                            .stages = stages,
                            .keep = keep});
  };
  const auto single = evaluate(alone, 1, tiling(1, 1), block, Tape::Keep::everything);
  for (int count = 2; count <= 3; ++count)
    for (int parts = 1; parts <= 2; ++parts) {
      if (world.size() % (count * parts) != 0) continue;
      const int ranks = world.size() / count, cols = ranks / parts;
      SCOPED_TRACE(std::to_string(count) + " stages, " + std::to_string(parts) + " parts, " +
                   std::to_string(cols) + " columns");
      const Partition partition(tiling(1, cols), TimeAxis(parts, frames, leads));
      const auto many = evaluate(world, count, partition, block, form.keep);
      const int stage = world.rank() / ranks;
      test::expect_same_samples(many, single, partition, world.rank() % ranks, stage == 0,
                                stage == count - 1);
      EXPECT_EQ(many.gradients, single.gradients);
      if (ranks > 1) continue;
      EXPECT_EQ(evaluate(world, count, partition, 0, form.keep).gradients,
                evaluate(alone, 1, tiling(1, 1), 0, form.keep).gradients)
          << "without blocks";
    }
}

INSTANTIATE_TEST_SUITE_P(Forms, PipelineOf, ::testing::ValuesIn(test::forms()));

} // namespace
} // namespace pluvia
