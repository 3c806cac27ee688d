// ranks: 2 4 6
// Channels over ranks: however heads and channels of the blocks are shared out, with tiles, parts of the
// frames and stages beside, logits and input gradients of every sample are the bits of one rank,
// and so are the gradients of parameters in blocks.
#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/error.hpp"
#include "random_field.hpp"
#include "rank_part.hpp"
#include "training_step.hpp"

namespace pluvia {
namespace {

constexpr Index frames = 3;
constexpr int samples = 2;
const StUnetPorts ports{5, {6, 12, 18}, 4};
const auto leads = static_cast<Index>(ports.lead_hours.size());
const std::vector<std::int64_t> channels{16, 48, 64}; // three and four heads where there is attention

TEST(ChannelShare, CutsIntoWholeHeads) {
  for (int members = 1; members <= 4; ++members)
    for (const Index heads : {4, 5, 8}) {
      const Index channels = heads * head_channels;
      Index next = 0;
      for (int member = 0; member < members; ++member) {
        const Span own = ChannelShare{member, members}.of(channels);
        EXPECT_EQ(own.from, next);
        EXPECT_GT(own.size(), 0);
        EXPECT_EQ(own.size() % head_channels, 0);
        EXPECT_LE(std::abs(own.size() * members - channels), head_channels * members);
        next = own.to;
      }
      EXPECT_EQ(next, channels);
    }
}

TEST(ChannelShare, LeavesLevelsWithFewerHeadsThanRanksWhole) {
  const ModelSettings settings = test::small_network(test::forms()[0], frames, channels);
  EXPECT_EQ(shared_levels(settings, 1), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(shared_levels(settings, 3), (std::vector<int>{1, 2}));
  EXPECT_EQ(shared_levels(settings, 4), (std::vector<int>{2}));
  EXPECT_TRUE((ChannelShare{1, 4}.on(48).whole()));
  EXPECT_FALSE((ChannelShare{1, 4}.on(64).whole()));
  EXPECT_NO_THROW(require_shares(settings, 4));
  EXPECT_THROW(require_shares(settings, 5), Error);
}

class TensorAxisOf : public ::testing::TestWithParam<test::Form> {
protected:
  static constexpr Index ny = 12, nx = 24, block = 8;
  ModelSettings settings() const { return test::small_network(GetParam(), frames, channels); }
  Tiling tiling(int rows, int cols) const {
    return Tiling(ny, nx, levels_of(settings()), rows, cols, GetParam().edge, block);
  }
  /// One step of settings(), by default on one rank.
  test::StepOf step(const ModelSettings& network, Index block = 0) const {
    return {.network = network, .ports = ports, .samples = samples, .block = block};
  }
  const Communicator world{MPI_COMM_WORLD}, alone{MPI_COMM_SELF};
};

TEST_P(TensorAxisOf, EveryShareGivesTheSameBits) {
  const ModelSettings network = settings();
  omp_set_num_threads(1);
  std::vector<Precision> precisions{Precision::f32};
  if (has_native_bf16() && GetParam().attention == "windowed") precisions.push_back(Precision::bf16);
  for (const Precision precision : precisions) {
    test::StepOf how = step(network, block);
    how.precision = precision;
    const auto single = test::take_step(alone, tiling(1, 1), how);
    how.keep = GetParam().keep;
    for (int tensor = 2; tensor <= 4; ++tensor)
      for (int stages = 1; stages <= 2; ++stages)
        for (int parts = 1; parts <= 2; ++parts) {
          if (world.size() % (tensor * stages * parts) != 0) continue;
          const int ranks = world.size() / tensor / stages, cols = ranks / parts;
          if (cols > 2 || (precision == Precision::bf16 && ranks > 1)) continue;
          SCOPED_TRACE(std::to_string(tensor) + " shares, " + std::to_string(stages) + " stages, " +
                       std::to_string(parts) + " parts, " + std::to_string(cols) + " columns");
          const Partition partition(tiling(1, cols), TimeAxis(parts, frames, leads));
          const int stage = world.rank() / tensor / ranks, rank = world.rank() / tensor % ranks;
          how.stages = stages, how.tensor = tensor;
          const auto many = test::take_step(world, partition, how);
          test::expect_same_samples(many, single, partition, rank, stage == 0, stage == stages - 1);
          EXPECT_EQ(many.gradients, single.gradients);
        }
  }
}

/// Logits of a forecast.
Tensor forecast(const ModelSettings& settings, Decomposition& tiles, Index slab) {
  StUnet network(settings, ports, 3);
  const Rect tile = tiles.tile(0), domain = tiles.domain(0);
  Tape tape(Tape::Mode::forget);
  const Var logits = network.forward(
      tape, tiles,
      Tape::leaf(test::part_of(test::field(domain, domain, frames, ports.inputs, 1), tile, {0, frames},
                               network.input_margin())),
      Tape::leaf(test::part_of(test::field(domain, domain, leads, ports.classes, 2), tile, {0, leads})), {},
      nullptr, {0, slab});
  return std::move(logits->value);
}

TEST_P(TensorAxisOf, ForecastsWholeAndInSlabs) {
  if (world.size() > 4) GTEST_SKIP() << "shown on fewer";
  const ModelSettings network = settings();
  omp_set_num_threads(1);
  Decomposition whole(alone, tiling(1, 1));
  const Tensor single = forecast(network, whole, 0);
  const ProcessGrid grid = make_process_grid(world, 1, 1, 2);
  Decomposition tiles(grid.tiles, tiling(1, grid.tiles.size()), &grid.channels);
  for (const Index slab : {0, 4})
    EXPECT_EQ(test::differences(forecast(network, tiles, slab), single, tiles.tile(0), {0, leads}), 0)
        << "slabs of " << slab;
}

TEST_P(TensorAxisOf, CountsEveryGradientOnce) {
  if (world.size() > 2) GTEST_SKIP() << "shown on two";
  const ModelSettings network = settings();
  omp_set_num_threads(1);
  test::StepOf how = step(network);
  const auto single = test::take_step(alone, tiling(1, 1), how);
  how.tensor = world.size();
  test::expect_near_gradients(test::take_step(world, tiling(1, 1), how), single);
  if (accelerator::count() == 0) return;
  how.keep = GetParam().keep, how.device = Device::gpu;
  const auto there = test::take_step(world, tiling(1, 1), how);
  test::expect_near_gradients(there, single);
  for (std::size_t m = 0; m < there.logits.size(); ++m)
    EXPECT_EQ(test::differences(there.logits[m], single.logits[m], {0, ny, 0, nx}, {0, leads}), 0);
}

INSTANTIATE_TEST_SUITE_P(Forms, TensorAxisOf, ::testing::ValuesIn(test::forms()));

} // namespace
} // namespace pluvia
