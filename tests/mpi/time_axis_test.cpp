// ranks: 1 2 3 4 6
// Frames over ranks: however the frames, leads, rows and columns are cut, the logits of a randomly
// initialised network, the gradient of its input and, in blocks, those of its weights are the bits of one
// rank.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/comm/partition.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "random_field.hpp"
#include "rank_part.hpp"

namespace pluvia {
namespace {

constexpr Index inputs = 5, classes = 4, frames = 5;
const std::vector<double> lead_hours{6, 12, 18, 24};
const auto leads = static_cast<Index>(lead_hours.size());

TEST(TimeAxis, CutsEvenlyIntoWholeBlocks) {
  for (const Index block : {1, 2, 3})
    for (int parts = 1; parts <= 3; ++parts) {
      const TimeAxis axis(parts, 9, 7, block);
      Index frame = 0, lead = 0, least = 9, most = 0;
      for (int part = 0; part < parts; ++part) {
        const Span f = axis.frames_of(part), l = axis.leads_of(part);
        EXPECT_EQ(f.from, frame);
        EXPECT_EQ(l.from, lead);
        EXPECT_EQ(f.from % block, 0);
        EXPECT_EQ(l.from % block, 0);
        EXPECT_GT(l.size(), 0);
        frame = f.to, lead = l.to;
        least = std::min(least, f.size()), most = std::max(most, f.size());
      }
      EXPECT_EQ(frame, 9);
      EXPECT_EQ(lead, 7);
      EXPECT_LE(most - least, block);
    }
}

TEST(TimeAxis, RefusesMorePartsThanThereAreBlocks) {
  EXPECT_THROW(TimeAxis(4, 3, 9), Error);
  EXPECT_THROW(TimeAxis(4, 9, 3), Error);
  EXPECT_THROW(TimeAxis(4, 9, 9, 3), Error);
  EXPECT_NO_THROW(TimeAxis(3, 9, 9, 3));
}

TEST(StUnet, RefusesARecurrenceWhereOneAttentionLooksThroughSpaceAndTime) {
  ModelSettings settings;
  settings.attention.form = "joint";
  settings.temporal_core = "recurrent";
  EXPECT_THROW(StUnet(settings, {inputs, lead_hours, classes}, 1), Error);
}

struct Outcome {
  Tensor logits, input_gradient;
  std::vector<std::vector<float>> gradients; ///< of the parameters, summed over ranks
  double loss = 0;
};

/// Forward and backward on one partition; gradients in blocks unless block is 0.
Outcome evaluate(const ModelSettings& settings, const Communicator& comm, const Partition& partition,
                 Index block, Index block_frames, Tape::Keep keep = Tape::Keep::everything) {
  StUnet net(settings, {inputs, lead_hours, classes}, 3);
  if (block > 0) net.parameters().sum_in_blocks();
  Decomposition tiles(comm, partition);
  const Rect tile = tiles.tile(0), domain = tiles.domain(0);
  const Span own_frames = tiles.frames(frames), own_leads = tiles.leads(leads);
  const Var input = Tape::leaf(
      test::part_of(test::field(domain, domain, frames, inputs, 1), tile, own_frames, net.input_margin()),
      true);
  const Var base = Tape::leaf(test::part_of(test::field(domain, domain, leads, classes, 2), tile, own_leads));
  const Target target = test::target_of(tile, domain, own_leads, classes, 5);

  Outcome out;
  net.parameters().zero_gradients();
  Tape tape(Tape::Mode::record, Precision::f32, keep, nullptr,
            {block, tile.height(), tile.width(), block_frames});
  const Var logits = net.forward(tape, tiles, input, base);
  out.logits = logits->value.clone();
  FixedSum loss = ordinal_loss(logits, target, tape);
  GradientSync sync(comm, net.parameters().all());
  tape.backward([&](auto whole) { sync.complete(whole); });
  sync.finish();
  out.input_gradient = input->grad.clone();
  out.loss = loss.value();
  comm.all_reduce(std::span(&out.loss, 1), Reduce::sum);
  for (const Parameter* p : net.parameters().all())
    out.gradients.emplace_back(p->grad.storage().begin(), p->grad.storage().end());
  return out;
}

struct Case {
  std::string form;
  std::int64_t input_merge, skip_radius;
  Edge edge;
  std::string core = "attention", global = "none";
  Index ny = 40, nx = 48, block = 8;
};

class TimeAxisOf : public ::testing::TestWithParam<Case> {};

TEST_P(TimeAxisOf, EveryPartitionGivesTheSameBits) {
  const Case& c = GetParam();
  ModelSettings settings;
  settings.history = frames;
  settings.channels = {16, 32, 32};
  settings.attention.form = c.form;
  settings.attention.radius = 2;
  settings.attention.window = 4;
  settings.input_merge = c.input_merge;
  settings.skip_radius = c.skip_radius;
  settings.head_init = "random";
  settings.temporal_core = c.core;
  settings.attention.global = c.global;
  const Index block = c.block;
  const int levels = levels_of(settings);
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  omp_set_num_threads(1);
  const auto tiling = [&](int rows, int cols) {
    return Tiling(c.ny, c.nx, levels, rows, cols, c.edge, block);
  };
  const Outcome fast = evaluate(settings, alone, tiling(1, 1), 0, 0),
                single = evaluate(settings, alone, tiling(1, 1), block, 1);
  double scale = 0;
  for (const float v : single.input_gradient.storage()) scale = std::max(scale, std::abs(double{v}));
  EXPECT_GT(scale, 0);

  omp_set_num_threads(2);
  for (int parts = 1; parts <= std::min(world.size(), 4); ++parts)
    for (int rows = 1; rows <= world.size() / parts; ++rows) {
      if (world.size() % (parts * rows) != 0) continue;
      const int cols = world.size() / parts / rows;
      if (rows > c.ny / block || cols > c.nx / block) continue;
      SCOPED_TRACE(std::to_string(parts) + " parts, " + std::to_string(rows) + " rows");
      const Partition partition(tiling(rows, cols), TimeAxis(parts, frames, leads));
      const Rect tile = partition.tile(world.rank(), 0);
      const Span f = parts > 1 ? partition.frames(world.rank()) : Span{0, frames},
                 l = parts > 1 ? partition.leads(world.rank()) : Span{0, leads};
      const Outcome many = evaluate(settings, world, partition, block, 1, Tape::Keep::blocks);
      EXPECT_EQ(test::differences(many.logits, single.logits, tile, l), 0);
      EXPECT_EQ(test::differences(many.input_gradient, single.input_gradient, tile, f), 0);
      EXPECT_EQ(many.gradients, single.gradients);
      EXPECT_NEAR(many.loss, single.loss, 1e-9 * single.loss);
      const Outcome quick = evaluate(settings, world, partition, 0, 0);
      double largest = 0; // the gradients of the keys' biases are zero but for rounding
      for (const auto& gradient : fast.gradients)
        for (const float v : gradient) largest = std::max(largest, std::abs(double{v}));
      for (std::size_t p = 0; p < fast.gradients.size(); ++p) {
        double most = 0, worst = 0;
        for (std::size_t i = 0; i < fast.gradients[p].size(); ++i) {
          most = std::max(most, std::abs(double{fast.gradients[p][i]}));
          worst = std::max(worst, std::abs(double{quick.gradients[p][i]} - double{fast.gradients[p][i]}));
        }
        EXPECT_LE(worst, 1e-4 * most + 1e-6 * largest) << "parameter " << p << " without blocks";
      }
    }
}

INSTANTIATE_TEST_SUITE_P(
    Forms, TimeAxisOf,
    ::testing::Values(Case{"neighbourhood", 1, 0, Edge::closed}, Case{"windowed", 2, 1, Edge::periodic},
                      Case{"joint", 1, 1, Edge::closed, "attention", "softmax"},
                      Case{"neighbourhood", 1, 0, Edge::closed, "recurrent", "linear"},
                      // Tiles down to one coarsest cell, seen by lead-time queries around it.
                      Case{"neighbourhood", 1, 1, Edge::closed, "attention", "none", 8, 12, 4}));

} // namespace
} // namespace pluvia
