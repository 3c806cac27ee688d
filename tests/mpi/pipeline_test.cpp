// ranks: 2 3 4 6
// Stages of a network on ranks of their own: however many there are, on whatever tiles and parts of the
// frames, logits and input gradients of every sample are the bits of one rank, and so are the gradients of
// parameters in blocks; on the same tiles those without blocks are, too.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/nn/footprint.hpp"
#include "pluvia/nn/operators.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "random_field.hpp"
#include "rank_part.hpp"

namespace pluvia {
namespace {

constexpr Index frames = 3;
constexpr int samples = 4;
const StUnetPorts ports{5, {6, 12, 18, 24}, 4};
const auto leads = static_cast<Index>(ports.lead_hours.size());

ModelSettings small_network() {
  ModelSettings settings;
  settings.history = frames;
  settings.channels = {16, 16, 32};
  settings.attention.radius = 2;
  settings.attention.window = 4;
  settings.head_init = "random";
  return settings;
}

TEST(Stages, CutEvenlyAndNameWhatCrosses) {
  const ModelSettings settings = small_network();
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
  ModelSettings settings = small_network();
  settings.channels = {16};
  settings.attention.levels = {};
  EXPECT_NO_THROW(require_stages(settings, 2, 2, "train.batch"));
  EXPECT_THROW(require_stages(settings, 2, 1, "train.batch"), Error);
  EXPECT_THROW(require_stages(settings, 3, 3, "train.batch"), Error);
}

struct Outcome {
  std::vector<Tensor> logits;          ///< of every sample, on the ranks of the last stage
  std::vector<Tensor> input_gradients; ///< on those of the first
  std::vector<std::vector<float>> gradients;
};

/// One step of `samples` samples; gradients in blocks unless block is 0.
Outcome evaluate(const ModelSettings& settings, const Communicator& world, int count,
                 const Partition& partition, Index block, Tape::Keep keep) {
  const int ranks = partition.ranks(), stage = world.rank() / ranks;
  const Communicator own = world.split(stage, world.rank()),
                     line = world.split(world.rank() % ranks, world.rank());
  StUnet network(settings, ports, 3);
  if (block > 0) network.parameters().sum_in_blocks();
  network.parameters().zero_gradients();
  Decomposition tiles(own, partition);
  Pipeline pipeline(network, ports, tiles, line, cut_stages(settings, ports, partition.tiling, count));
  const Rect tile = tiles.tile(0), domain = tiles.domain(0);
  const Span own_frames = tiles.frames(frames), own_leads = tiles.leads(leads);
  const auto parameters = network.parameters().all();
  GradientSync sync(world, parameters);
  std::vector<int> told(parameters.size(), 0);
  std::vector<Var> inputs;
  Outcome out;
  Pipeline::Batch batch;
  batch.size = samples;
  batch.tape = [&] {
    return std::make_unique<Tape>(Tape::Mode::record, Precision::f32, keep, nullptr,
                                  GradientBlocks{block, tile.height(), tile.width(), 1});
  };
  batch.load = [&](int m) {
    Pipeline::Sample sample{nullptr, nullptr, {0.2, 7, static_cast<std::uint64_t>(m)}};
    const auto seed = 2 * static_cast<std::uint64_t>(m);
    if (pipeline.first()) {
      sample.input = Tape::leaf(test::part_of(test::field(domain, domain, frames, ports.inputs, seed), tile,
                                              own_frames, network.input_margin()),
                                true);
      inputs.push_back(sample.input);
    }
    if (pipeline.last())
      sample.base = Tape::leaf(
          test::part_of(test::field(domain, domain, leads, ports.classes, seed + 1), tile, own_leads));
    return sample;
  };
  batch.score = [&](int m, const Var& logits, const Tape& tape) {
    out.logits.push_back(logits->value.clone());
    const Target target =
        test::target_of(tile, domain, own_leads, ports.classes, static_cast<std::uint64_t>(5 + m));
    ordinal_loss(logits, target, tape);
  };
  batch.whole = [&](auto whole) {
    for (const Parameter* p : whole)
      ++told[static_cast<std::size_t>(std::ranges::find(parameters, p) - parameters.begin())];
    sync.complete(whole);
  };
  const StageTimeline timeline = pipeline.run(batch);
  sync.finish();
  EXPECT_EQ(timeline.size(), list_instructions(count, stage, samples, pipeline.stages().links()).size());
  EXPECT_EQ(told, std::vector<int>(parameters.size(), 1)) << "each parameter is whole once";
  for (const Var& input : inputs) out.input_gradients.push_back(input->grad.clone());
  for (const Parameter* p : parameters)
    out.gradients.emplace_back(p->grad.storage().begin(), p->grad.storage().end());
  return out;
}

struct Case {
  std::string form;
  std::int64_t input_merge, skip_radius;
  Edge edge;
  Tape::Keep keep;
  std::string core = "attention", global = "none";
};

class PipelineOf : public ::testing::TestWithParam<Case> {};

TEST_P(PipelineOf, EveryNumberOfStagesGivesTheSameBits) {
  const Case& c = GetParam();
  ModelSettings settings = small_network();
  settings.attention.form = c.form;
  settings.input_merge = c.input_merge;
  settings.skip_radius = c.skip_radius;
  settings.temporal_core = c.core;
  settings.attention.global = c.global;
  constexpr Index ny = 12, nx = 24, block = 8;
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  omp_set_num_threads(1);
  const auto tiling = [&](int rows, int cols) {
    return Tiling(ny, nx, levels_of(settings), rows, cols, c.edge, block);
  };
  const Outcome single = evaluate(settings, alone, 1, tiling(1, 1), block, Tape::Keep::everything);
  double scale = 0;
  for (const float v : single.input_gradients[0].storage()) scale = std::max(scale, std::abs(double{v}));
  EXPECT_GT(scale, 0);

  for (int count = 2; count <= 3; ++count)
    for (int parts = 1; parts <= 2; ++parts) {
      if (world.size() % (count * parts) != 0) continue;
      const int ranks = world.size() / count, cols = ranks / parts;
      SCOPED_TRACE(std::to_string(count) + " stages, " + std::to_string(parts) + " parts, " +
                   std::to_string(cols) + " columns");
      const Partition partition(tiling(1, cols), TimeAxis(parts, frames, leads));
      const int rank = world.rank() % ranks;
      const Rect tile = partition.tile(rank, 0);
      const Span f = parts > 1 ? partition.frames(rank) : Span{0, frames},
                 l = parts > 1 ? partition.leads(rank) : Span{0, leads};
      const Outcome many = evaluate(settings, world, count, partition, block, c.keep);
      EXPECT_EQ(many.logits.size(), world.rank() / ranks == count - 1 ? samples : 0);
      EXPECT_EQ(many.input_gradients.size(), world.rank() < ranks ? samples : 0);
      for (std::size_t m = 0; m < many.logits.size(); ++m)
        EXPECT_EQ(test::differences(many.logits[m], single.logits[m], tile, l), 0) << "sample " << m;
      for (std::size_t m = 0; m < many.input_gradients.size(); ++m)
        EXPECT_EQ(test::differences(many.input_gradients[m], single.input_gradients[m], tile, f), 0)
            << "sample " << m;
      EXPECT_EQ(many.gradients, single.gradients);
      if (ranks > 1) continue;
      EXPECT_EQ(evaluate(settings, world, count, partition, 0, c.keep).gradients,
                evaluate(settings, alone, 1, tiling(1, 1), 0, c.keep).gradients)
          << "without blocks";
    }
}

INSTANTIATE_TEST_SUITE_P(
    Forms, PipelineOf,
    ::testing::Values(Case{"neighbourhood", 1, 0, Edge::closed, Tape::Keep::everything},
                      Case{"windowed", 2, 1, Edge::periodic, Tape::Keep::blocks},
                      Case{"joint", 1, 1, Edge::closed, Tape::Keep::everything, "attention", "softmax"},
                      Case{"neighbourhood", 1, 0, Edge::closed, Tape::Keep::blocks, "recurrent", "linear"}));

} // namespace
} // namespace pluvia
