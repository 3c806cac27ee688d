// ranks: 1 2 3 4 6
// Frames over ranks: however the frames, leads, rows and columns are cut, the logits of a randomly
// initialised network, the gradient of its input and, in blocks, those of its weights are the bits of one
// rank.
#include <algorithm>
#include <string>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/comm/partition.hpp"
#include "pluvia/core/error.hpp"
#include "training_step.hpp"

namespace pluvia {
namespace {

constexpr Index frames = 5;
const StUnetPorts ports{5, {6, 12, 18, 24}, 4};
const auto leads = static_cast<Index>(ports.lead_hours.size());

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
  EXPECT_THROW(StUnet(settings, ports, 1), Error);
}

void expect_same_bits(const test::Form& form, Index ny, Index nx, Index block) {
  const ModelSettings settings = test::small_network(form, frames, {16, 32, 32});
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  const auto tiling = [&](int rows, int cols) {
    return Tiling(ny, nx, levels_of(settings), rows, cols, form.edge, block);
  };
  const test::StepOf fast{.network = settings, .ports = ports, .samples = 1};
  test::StepOf exact = fast;
  exact.block = block;
  omp_set_num_threads(1);
  const auto single_fast = test::take_step(alone, tiling(1, 1), fast),
             single = test::take_step(alone, tiling(1, 1), exact);
  exact.keep = Tape::Keep::blocks;
  omp_set_num_threads(2);
  for (int parts = 1; parts <= std::min(world.size(), 4); ++parts)
    for (int rows = 1; rows <= world.size() / parts; ++rows) {
      if (world.size() % (parts * rows) != 0) continue;
      const int cols = world.size() / parts / rows;
      if (rows > ny / block || cols > nx / block) continue;
      SCOPED_TRACE(std::to_string(parts) + " parts, " + std::to_string(rows) + " rows");
      const Partition partition(tiling(rows, cols), TimeAxis(parts, frames, leads));
      const auto many = test::take_step(world, partition, exact);
      test::expect_same_samples(many, single, partition, world.rank());
      EXPECT_EQ(many.gradients, single.gradients);
      test::expect_near_gradients(test::take_step(world, partition, fast), single_fast);
    }
}

class TimeAxisOf : public ::testing::TestWithParam<test::Form> {};

TEST_P(TimeAxisOf, EveryPartitionGivesTheSameBits) {
  expect_same_bits(GetParam(), 40, 48, 8);
}

TEST(TimeAxis, TilesDownToOneCoarsestCellSeenByLeadTimeQueriesAroundItGiveTheSameBits) {
  expect_same_bits({"neighbourhood", 1, 1, Edge::closed, Tape::Keep::blocks}, 8, 12, 4);
}

INSTANTIATE_TEST_SUITE_P(Forms, TimeAxisOf, ::testing::ValuesIn(test::forms()));

} // namespace
} // namespace pluvia
