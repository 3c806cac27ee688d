// ranks: 1 2 3 4 6
// The whole network: logits of a randomly initialised head are the same bits on every process grid and thread
// count and on the accelerator, for every form of attention; and its gradient is that of finite differences.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/core/random.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/ops/loss.hpp"
#include "random_field.hpp"

namespace pluvia {
namespace {

constexpr Index inputs = 5, classes = 4, frames = 3;
const std::vector<double> leads{6, 12};

ModelSettings small_model(const std::string& form, const std::string& global, std::int64_t input_merge,
                          std::int64_t skip_radius) {
  ModelSettings m;
  m.channels = {16, 32, 32};
  m.attention.form = form;
  m.attention.global = global;
  m.attention.radius = 2;
  m.attention.window = 4;
  m.input_merge = input_merge;
  m.skip_radius = skip_radius;
  m.head_init = "random";
  return m;
}

Var field(const Rect& tile, const Rect& domain, Index t, Index c, std::uint64_t seed, Margin margin = {}) {
  return Tape::leaf(test::field(tile, domain, t, c, seed, margin));
}

Var logits(StUnet& net, Tape& tape, Decomposition& tiles, const SlabSize& slab = {},
           Device device = Device::host) {
  const Rect tile = tiles.tile(0), domain = tiles.domain(0);
  const Var x = field(tile, domain, frames, inputs, 1, net.input_margin()),
            base = field(tile, domain, static_cast<Index>(leads.size()), classes, 2);
  for (const Var& v : {x, base}) v->value = moved(std::move(v->value), device);
  return net.forward(tape, tiles, x, base, {}, nullptr, slab);
}

/// Values of a tile that are not those of the whole domain on one rank.
std::int64_t differences(const Tensor& part, const Tensor& all, const Rect& tile) {
  const Shape s = part.shape();
  std::int64_t out = 0;
  for (Index t = 0; t < s.t; ++t)
    for (Index y = 0; y < s.y; ++y)
      for (Index i = 0; i < s.x * s.c; ++i)
        out += part.cell(0, t, y, 0)[i] != all.cell(0, t, y + tile.y0, tile.x0)[i];
  return out;
}

struct Case {
  std::string form, global;
  Index ny, nx;
  std::int64_t input_merge, skip_radius;
  Edge edge;
  std::vector<std::int64_t> levels = {-2, -1}; ///< with attention
  std::string core = "attention";
};

class StUnetOn : public ::testing::TestWithParam<Case> {};

TEST_P(StUnetOn, EveryProcessGridGivesTheSameBits) {
  const Case& c = GetParam();
  ModelSettings settings = small_model(c.form, c.global, c.input_merge, c.skip_radius);
  settings.attention.levels = c.levels;
  settings.temporal_core = c.core;
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  StUnet net(settings, {inputs, leads, classes}, 3);
  Tape tape(Tape::Mode::forget);
  const int levels = levels_of(settings);
  omp_set_num_threads(1);
  Decomposition one(alone, Tiling(c.ny, c.nx, levels, 1, 1, c.edge));
  const Var single = logits(net, tape, one);
  double sum = 0, squares = 0;
  for (float v : single->value.storage()) sum += v, squares += static_cast<double>(v) * v;
  const double n = static_cast<double>(single->value.storage().size());
  EXPECT_GT(squares / n - sum / n * (sum / n), 0.1) << "logits must vary, or equality says nothing";

  std::vector<std::pair<int, Device>> ways{{1, Device::host}, {2, Device::host}};
  if (accelerator::count() > 0) ways.emplace_back(1, Device::gpu);
  for (int rows = 1; rows <= world.size(); ++rows) {
    const Rect coarsest = one.domain(levels - 1);
    if (world.size() % rows != 0 || rows > coarsest.height() || world.size() / rows > coarsest.width())
      continue;
    for (const auto& [threads, device] : ways) {
      omp_set_num_threads(threads);
      Decomposition tiles(world, Tiling(c.ny, c.nx, levels, rows, world.size() / rows, c.edge));
      net.parameters().move_to(device);
      const Var many = logits(net, tape, tiles, {}, device);
      const auto same = [&](const Var& many, const std::string& how) {
        EXPECT_EQ(differences(moved(std::move(many->value), Device::host), single->value, tiles.tile(0)), 0)
            << rows << " rows, " << threads << " threads" << how;
      };
      if (device == Device::gpu) {
        same(many, ", on the accelerator");
        for (const Index slab : {2, 10})
          same(logits(net, tape, tiles, {0, slab}), ", accelerator, slabs of " + std::to_string(slab));
        continue;
      }
      same(many, "");
      // Slabs of single cells of the next level, and of some: the same on ranks whose tiles have other
      // heights.
      for (const Index slab : {2, 10})
        same(logits(net, tape, tiles, {0, slab}), ", slabs of " + std::to_string(slab));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Forms, StUnetOn,
    ::testing::Values(Case{"neighbourhood", "none", 61, 53, 1, 0, Edge::closed},
                      Case{"neighbourhood", "linear", 40, 48, 2, 1, Edge::periodic},
                      Case{"windowed", "linear", 61, 53, 2, 0, Edge::closed},
                      Case{"joint", "linear", 33, 29, 1, 1, Edge::closed},
                      Case{"neighbourhood", "none", 40, 48, 2, 1, Edge::periodic},
                      Case{"neighbourhood", "none", 37, 32, 1, 2, Edge::periodic, {0, 1}},
                      Case{"windowed", "none", 61, 53, 1, 0, Edge::closed, {0, 2}},
                      Case{"windowed", "none", 40, 48, 1, 0, Edge::periodic, {0, 2}, "recurrent"},
                      Case{"joint", "none", 45, 29, 2, 0, Edge::closed, {0, 1, 2}}));

TEST(StUnet, SlabsAreAllThatExistsOfALevel) {
  ModelSettings settings = small_model("windowed", "none", 1, 0);
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  StUnet net(settings, {inputs, leads, classes}, 3);
  Decomposition tiles(alone, Tiling(64, 24, levels_of(settings), 1, 1));
  const auto tallest = [&](const SlabSize& slab) {
    Profile profile;
    Tape tape(Tape::Mode::forget, Precision::f32, Tape::Keep::everything, &profile);
    logits(net, tape, tiles, slab);
    Index rows = 0;
    for (const Profile::Row& row : profile.rows()) rows = std::max(rows, row.output.y);
    return rows;
  };
  EXPECT_EQ(tallest({}), 64);
  EXPECT_LE(tallest({0, 8}), 8 + 2 * 3); // the stem's and two convolutions' reach around a slab
}

TEST(StUnet, OfOneLevelIsTheSameInSlabs) {
  ModelSettings settings = small_model("neighbourhood", "none", 1, 1);
  settings.channels = {16};
  settings.attention.levels = {0};
  const Communicator world(MPI_COMM_WORLD);
  StUnet net(settings, {inputs, leads, classes}, 3);
  const GridShape shape = choose_grid_shape(31, 23, 1, world.size());
  Decomposition tiles(world, Tiling(31, 23, 1, shape.rows, shape.cols));
  Tape tape(Tape::Mode::forget);
  const Var whole = logits(net, tape, tiles), slabs = logits(net, tape, tiles, {0, 2});
  EXPECT_EQ(slabs->value.shape(), whole->value.shape());
  EXPECT_TRUE(std::ranges::equal(slabs->value.storage(), whole->value.storage()));
}

TEST(StUnet, GradientMatchesFiniteDifferences) {
  const ModelSettings settings = small_model("neighbourhood", "linear", 1, 1);
  const Communicator world(MPI_COMM_WORLD);
  StUnet net(settings, {inputs, leads, classes}, 3);
  const GridShape shape = choose_grid_shape(21, 19, levels_of(settings), world.size());
  Decomposition tiles(world, Tiling(21, 19, levels_of(settings), shape.rows, shape.cols));
  const Rect tile = tiles.tile(0);
  Target target;
  for (Index lead = 0; lead < 2; ++lead)
    for (Index y = tile.y0; y < tile.y1; ++y)
      for (Index x = tile.x0; x < tile.x1; ++x)
        target.classes.push_back(static_cast<std::int8_t>(random_below(
            classes, 5, RandomPurpose::test, static_cast<std::uint64_t>((lead * 21 + y) * 19 + x))));
  target.weights.assign(static_cast<std::size_t>(2 * tile.height()), 1.0F / (21 * 19));
  const auto loss = [&](Tape::Mode mode, Tape::Keep keep = Tape::Keep::everything) {
    Tape tape(mode, Precision::f32, keep);
    const Var f = logits(net, tape, tiles);
    double value = ordinal_loss(f, target, tape).value();
    tape.backward();
    world.all_reduce(std::span(&value, 1), Reduce::sum);
    return value;
  };
  net.parameters().zero_gradients();
  const double kept = loss(Tape::Mode::record);
  // Blocks made anew give the same loss and gradients to the bit.
  std::vector<std::vector<float>> gradients;
  for (Parameter* p : net.parameters().all())
    gradients.emplace_back(p->grad.storage().begin(), p->grad.storage().end());
  net.parameters().zero_gradients();
  EXPECT_EQ(loss(Tape::Mode::record, Tape::Keep::blocks), kept);
  std::size_t number = 0;
  for (Parameter* p : net.parameters().all())
    EXPECT_TRUE(std::ranges::equal(p->grad.storage(), gradients[number++])) << p->name;
  // On the accelerator the loss is the same, and gradients are within rounding.
  if (accelerator::count() > 0) {
    net.parameters().move_to(Device::gpu);
    net.parameters().zero_gradients();
    EXPECT_NEAR(loss(Tape::Mode::record), kept, 1e-6 * std::abs(kept));
    number = 0;
    for (Parameter* p : net.parameters().all()) {
      const std::vector<float> there = values_of(p->grad), &here = gradients[number++];
      double scale = 0, worst = 0;
      for (std::size_t i = 0; i < here.size(); ++i) {
        scale = std::max(scale, std::abs(static_cast<double>(here[i])));
        worst = std::max(worst, std::abs(static_cast<double>(here[i]) - there[i]));
      }
      // What a key's bias gives to all scores alike falls out of softmax: its gradient is rounding alone.
      EXPECT_LE(worst, 1e-4 * scale + 1e-6) << p->name;
    }
    net.parameters().move_to(Device::host);
  }
  const auto shift = [&](double step) {
    std::uint64_t stream = 0;
    for (Parameter* p : net.parameters().all()) {
      ++stream;
      for (std::size_t i = 0; i < p->value.storage().size(); ++i)
        p->value.storage()[i] += static_cast<float>(step * random_normal(6, RandomPurpose::test, i, stream));
    }
  };
  double analytic = 0;
  std::uint64_t stream = 0;
  for (Parameter* p : net.parameters().all()) {
    ++stream;
    for (std::size_t i = 0; i < p->grad.storage().size(); ++i)
      analytic +=
          static_cast<double>(p->grad.storage()[i]) * random_normal(6, RandomPurpose::test, i, stream);
  }
  world.all_reduce(std::span(&analytic, 1), Reduce::sum);
  const double step = 2e-4;
  shift(step);
  const double up = loss(Tape::Mode::forget);
  shift(-2 * step);
  const double down = loss(Tape::Mode::forget);
  EXPECT_NEAR(analytic, (up - down) / (2 * step), 0.01 * std::abs(analytic) + 0.01);
  EXPECT_GT(std::abs(analytic), 0.1);
}

} // namespace
} // namespace pluvia
