// ranks: 2 4 6
// Channels over ranks: however heads and channels of the blocks are shared out, with tiles, parts of the
// frames and stages beside, logits and input gradients of every sample are the bits of one rank,
// and so are the gradients of parameters in blocks.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "random_field.hpp"
#include "rank_part.hpp"

namespace pluvia {
namespace {

constexpr Index frames = 3;
constexpr int samples = 2;
const StUnetPorts ports{5, {6, 12, 18}, 4};
const auto leads = static_cast<Index>(ports.lead_hours.size());

/// Three and four heads where there is attention.
ModelSettings small_network() {
  ModelSettings settings;
  settings.history = frames;
  settings.channels = {16, 48, 64};
  settings.attention.radius = 2;
  settings.attention.window = 4;
  settings.head_init = "random";
  return settings;
}

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
  const ModelSettings settings = small_network();
  EXPECT_EQ(shared_levels(settings, 1), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(shared_levels(settings, 3), (std::vector<int>{1, 2}));
  EXPECT_EQ(shared_levels(settings, 4), (std::vector<int>{2}));
  EXPECT_TRUE((ChannelShare{1, 4}.on(48).whole()));
  EXPECT_FALSE((ChannelShare{1, 4}.on(64).whole()));
  EXPECT_NO_THROW(require_shares(settings, 4));
  EXPECT_THROW(require_shares(settings, 5), Error);
}

struct Outcome {
  std::vector<Tensor> logits;          ///< of every sample, on the ranks of the last stage
  std::vector<Tensor> input_gradients; ///< on those of the first
  std::vector<std::vector<float>> gradients;
};

struct How {
  Precision precision = Precision::f32;
  Tape::Keep keep = Tape::Keep::everything;
  Device device = Device::host;
};

/// One step of `samples` samples; gradients in blocks unless block is 0.
Outcome evaluate(const ModelSettings& settings, const Communicator& world, int stages, int tensor,
                 const Partition& partition, Index block, const How& how) {
  const ProcessGrid grid = make_process_grid(world, 1, stages, tensor);
  StUnet network(settings, ports, 3);
  network.parameters().move_to(how.device);
  if (block > 0) network.parameters().sum_in_blocks();
  network.parameters().zero_gradients();
  Decomposition tiles(grid.tiles, partition, &grid.channels);
  Pipeline pipeline(network, ports, tiles, grid.stages,
                    cut_stages(settings, ports, partition.tiling, stages));
  const Rect tile = tiles.tile(0), domain = tiles.domain(0);
  const Span own_frames = tiles.frames(frames), own_leads = tiles.leads(leads);
  const auto parameters = network.parameters().all();
  GradientSync sync(world, parameters);
  std::vector<Var> inputs;
  Outcome out;
  Pipeline::Batch batch;
  batch.size = samples;
  batch.tape = [&] {
    return std::make_unique<Tape>(
        Tape::Mode::record, how.precision, how.keep, nullptr,
        GradientBlocks{block, tile.height(), tile.width(), 1, grid.channels.rank(), grid.channels.size()});
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
    out.logits.push_back(logits->value.clone().to(Device::host));
    const Target target =
        test::target_of(tile, domain, own_leads, ports.classes, static_cast<std::uint64_t>(5 + m));
    ordinal_loss(logits, target, tape);
  };
  batch.whole = [&](auto whole) { sync.complete(whole); };
  pipeline.run(batch);
  sync.finish();
  for (const Var& input : inputs) out.input_gradients.push_back(input->grad.clone().to(Device::host));
  for (const Parameter* p : parameters) out.gradients.push_back(values_of(p->grad));
  return out;
}

/// Of the parameters' gradients without blocks, which depend on who sums what.
void expect_near(const Outcome& many, const Outcome& single) {
  double largest = 0; // the gradients of the keys' biases are zero but for rounding
  for (const auto& gradient : single.gradients)
    for (const float v : gradient) largest = std::max(largest, std::abs(double{v}));
  for (std::size_t p = 0; p < single.gradients.size(); ++p) {
    double most = 0, worst = 0;
    for (std::size_t i = 0; i < single.gradients[p].size(); ++i) {
      most = std::max(most, std::abs(double{single.gradients[p][i]}));
      worst = std::max(worst, std::abs(double{many.gradients[p][i]} - double{single.gradients[p][i]}));
    }
    EXPECT_LE(worst, 1e-4 * most + 1e-6 * largest) << "parameter " << p << " without blocks";
  }
}

struct Case {
  std::string form;
  std::int64_t input_merge, skip_radius;
  Edge edge;
  Tape::Keep keep;
  std::string core = "attention", global = "none";
};

class TensorAxisOf : public ::testing::TestWithParam<Case> {
protected:
  static constexpr Index ny = 12, nx = 24, block = 8;
  ModelSettings settings() const {
    const Case& c = GetParam();
    ModelSettings out = small_network();
    out.attention.form = c.form;
    out.input_merge = c.input_merge;
    out.skip_radius = c.skip_radius;
    out.temporal_core = c.core;
    out.attention.global = c.global;
    return out;
  }
  Tiling tiling(int rows, int cols) const {
    return Tiling(ny, nx, levels_of(settings()), rows, cols, GetParam().edge, block);
  }
  const Communicator world{MPI_COMM_WORLD}, alone{MPI_COMM_SELF};
};

TEST_P(TensorAxisOf, EveryShareGivesTheSameBits) {
  const ModelSettings network = settings();
  omp_set_num_threads(1);
  std::vector<Precision> precisions{Precision::f32};
  if (has_native_bf16() && GetParam().form == "windowed") precisions.push_back(Precision::bf16);
  for (const Precision precision : precisions) {
    const Outcome single = evaluate(network, alone, 1, 1, tiling(1, 1), block, {precision});
    double scale = 0;
    for (const float v : single.input_gradients[0].storage()) scale = std::max(scale, std::abs(double{v}));
    EXPECT_GT(scale, 0);
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
          const Rect tile = partition.tile(rank, 0);
          const Span f = parts > 1 ? partition.frames(rank) : Span{0, frames},
                     l = parts > 1 ? partition.leads(rank) : Span{0, leads};
          const Outcome many =
              evaluate(network, world, stages, tensor, partition, block, {precision, GetParam().keep});
          EXPECT_EQ(many.logits.size(), stage == stages - 1 ? samples : 0);
          EXPECT_EQ(many.input_gradients.size(), stage == 0 ? samples : 0);
          for (std::size_t m = 0; m < many.logits.size(); ++m)
            EXPECT_EQ(test::differences(many.logits[m], single.logits[m], tile, l), 0) << "sample " << m;
          for (std::size_t m = 0; m < many.input_gradients.size(); ++m)
            EXPECT_EQ(test::differences(many.input_gradients[m], single.input_gradients[m], tile, f), 0)
                << "sample " << m;
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
  const Outcome single = evaluate(network, alone, 1, 1, tiling(1, 1), 0, {});
  expect_near(evaluate(network, world, 1, world.size(), tiling(1, 1), 0, {}), single);
  if (accelerator::count() == 0) return;
  const Outcome there = evaluate(network, world, 1, world.size(), tiling(1, 1), 0,
                                 {Precision::f32, GetParam().keep, Device::gpu});
  expect_near(there, single);
  for (std::size_t m = 0; m < there.logits.size(); ++m)
    EXPECT_EQ(test::differences(there.logits[m], single.logits[m], {0, ny, 0, nx}, {0, leads}), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, TensorAxisOf,
    ::testing::Values(Case{"neighbourhood", 1, 0, Edge::closed, Tape::Keep::everything},
                      Case{"windowed", 2, 1, Edge::periodic, Tape::Keep::blocks},
                      Case{"joint", 1, 1, Edge::closed, Tape::Keep::everything, "attention", "softmax"},
                      Case{"neighbourhood", 1, 0, Edge::closed, Tape::Keep::blocks, "recurrent", "linear"}));

} // namespace
} // namespace pluvia
