// ranks: 1 2 3 4 6
// What a probe notes is what the network attends to: weights make the operator's output again, add up to
// one, are the same bytes on every process grid, and leave the logits as they are.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/nn/st_unet.hpp"
#include "random_field.hpp"

namespace pluvia {
namespace {

using test::field;

constexpr Index frames = 3, inputs = 5, classes = 4;
const std::vector<double> leads{6, 12};

/// The process grids of all ranks that the coarsest level allows.
std::vector<Tiling> tilings(Index ny, Index nx, int levels, int ranks, Edge edge) {
  std::vector<Tiling> out;
  const Rect coarsest = Tiling(ny, nx, levels, 1, 1, edge).domain(levels - 1);
  for (int rows = 1; rows <= ranks; ++rows)
    if (ranks % rows == 0 && rows <= coarsest.height() && ranks / rows <= coarsest.width())
      out.emplace_back(ny, nx, levels, rows, ranks / rows, edge);
  return out;
}

TEST(AttentionView, WeightsOfTheKeysWithTheirHaloMakeTheOutput) {
  const Communicator world(MPI_COMM_WORLD);
  const Index channels = 32;
  const AxisWindow own{}, past{AxisWindow::Kind::past, 0, frames}, all{AxisWindow::Kind::all, 0, frames};
  for (const Edge edge : {Edge::closed, Edge::periodic})
    for (const Tiling& tiling : tilings(26, 28, 2, world.size(), edge)) {
      Decomposition tiles(world, tiling);
      const Rect tile = tiles.tile(0), domain = tiles.domain(0);
      const AxisWindow y = tiles.around_y(0, 2), x = tiles.around_x(0, 2);
      struct Case {
        const char* name;
        AttentionWindow window;
        bool shared;
      };
      for (const Case& c :
           {Case{"neighbourhood", {own, y, x}, false},
            Case{"windowed", {own, block_y(tiles.tiling(), 0, 5), block_x(tiles.tiling(), 0, 5)}, false},
            Case{"joint", {past, y, x}, false}, Case{"skip", {all, y, x}, true}}) {
        SCOPED_TRACE(c.name);
        Tape tape(Tape::Mode::forget);
        const Margin keys = key_margin(tiles, 0, c.window);
        const Rect everywhere{0, 1, 0, 1};
        const Var q =
            Tape::leaf(c.shared ? field(everywhere, everywhere, 2, channels, 1)
                                : field(tile, domain, frames, channels, 1, query_margin(tiles, 0, c.window)));
        const Var k = Tape::leaf(field(tile, domain, frames, channels, 2, keys)),
                  v = Tape::leaf(field(tile, domain, frames, channels, 3, keys));
        std::vector<float> made;
        const auto make = [&](const Tensor& queries, const Tensor& with_halo, const AttentionWindow& window,
                              TileOrigin origin) {
          for (Index t = 0; t < queries.shape().t; ++t)
            for (Index iy = 0; iy < tile.height(); ++iy)
              for (Index ix = 0; ix < tile.width(); ++ix) {
                const std::vector<float> weights =
                    attention_weights(queries, with_halo, window, origin, t, iy, ix);
                const Span ts = window.t.keys(t), ys = window.y.keys(iy + origin.y),
                           xs = window.x.keys(ix + origin.x);
                std::size_t j = 0;
                for (Index first = 0; first < channels; first += head_channels) {
                  double sums[head_channels] = {};
                  for (Index kt = ts.from; kt < ts.to; ++kt)
                    for (Index ky = ys.from; ky < ys.to; ++ky)
                      for (Index kx = xs.from; kx < xs.to; ++kx, ++j)
                        for (Index i = 0; i < head_channels; ++i)
                          sums[i] += double{weights.at(j)} *
                                     double{v->value.cell(0, kt, ky - origin.y, kx - origin.x)[first + i]};
                  made.insert(made.end(), std::begin(sums), std::end(sums));
                }
              }
        };
        const Var o = attention(tape, tiles, 0, q, k, v, c.window, make);
        const auto values = o->value.storage();
        ASSERT_EQ(made.size(), values.size());
        double worst = 0, greatest = 0;
        for (std::size_t i = 0; i < made.size(); ++i) {
          worst = std::max(worst, std::abs(double{made[i]} - double{values[i]}));
          greatest = std::max(greatest, std::abs(double{values[i]}));
        }
        EXPECT_GT(greatest, 0.5);
        EXPECT_LT(worst, 5e-6 * greatest);
      }
    }
}

struct Network {
  std::string form;
  Index ny, nx;
  std::int64_t input_merge, skip_radius;
  Edge edge;
};

class ProbeOf : public ::testing::TestWithParam<Network> {};

/// Least and greatest sum of weights over keys.
std::pair<double, double> sums(const AttentionMap& map) {
  std::pair<double, double> out{HUGE_VAL, -HUGE_VAL};
  const auto plane = static_cast<std::size_t>(map.frames * map.height * map.width);
  for (std::size_t i = 0; i < map.weights.size(); i += plane) {
    double sum = 0;
    for (std::size_t j = i; j < i + plane; ++j) sum += double{map.weights[j]};
    out = {std::min(out.first, sum), std::max(out.second, sum)};
  }
  return out;
}

TEST_P(ProbeOf, NotesTheSameBytesOnEveryProcessGrid) {
  const Network& n = GetParam();
  ModelSettings settings;
  settings.channels = {16, 32, 32};
  settings.attention.form = n.form;
  settings.attention.radius = 2;
  settings.attention.window = 4;
  settings.input_merge = n.input_merge;
  settings.skip_radius = n.skip_radius;
  settings.head_init = "random";
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  StUnet net(settings, {inputs, leads, classes}, 3);
  const int levels = levels_of(settings);
  // Corners, where windows are clamped, cut short or wrapped, and the middle.
  const std::vector<AttentionProbe::Cell> cells{
      {0, 0}, {n.ny - 1, n.nx - 1}, {n.ny / 2, n.nx / 2}, {0, n.nx - 1}};
  const auto run = [&](const Communicator& comm, const Tiling& tiling, AttentionProbe* probe) {
    Decomposition tiles(comm, tiling);
    const Rect tile = tiles.tile(0), domain = tiles.domain(0);
    Tape tape(Tape::Mode::forget);
    const Var logits =
        net.forward(tape, tiles, Tape::leaf(field(tile, domain, frames, inputs, 1, net.input_margin())),
                    Tape::leaf(field(tile, domain, static_cast<Index>(leads.size()), classes, 2)), {}, probe);
    if (probe) gather(comm, *probe);
    return logits;
  };
  AttentionProbe single{cells, {}, {}};
  run(alone, Tiling(n.ny, n.nx, levels, 1, 1, n.edge), &single);

  std::size_t expected = 3; // skips
  for (const AttentionMap& map : single.maps) {
    const auto [least, most] = sums(map);
    EXPECT_NEAR(least, 1, 1e-5);
    EXPECT_NEAR(most, 1, 1e-5);
    const auto [low, high] = std::ranges::minmax(map.weights);
    EXPECT_GT(high - low, 0.01) << "weights must vary, or equality says nothing";
    EXPECT_EQ(map.frames, map.kind == AttentionKind::spatial ? 1 : frames);
  }
  expected += n.form == "joint" ? 2 : 4;
  EXPECT_EQ(single.maps.size(), expected);
  EXPECT_EQ(single.gates.size(), n.form == "joint" ? 0U : 2U);
  for (const AttentionGate& gate : single.gates)
    for (const float share : gate.spatial_share) EXPECT_TRUE(share > 0.2F && share < 0.8F) << share;

  for (const Tiling& tiling : tilings(n.ny, n.nx, levels, world.size(), n.edge)) {
    SCOPED_TRACE(std::to_string(tiling.rows()) + " rows");
    AttentionProbe many{cells, {}, {}};
    const Var watched = run(world, tiling, &many), unwatched = run(world, tiling, nullptr);
    EXPECT_TRUE(std::ranges::equal(watched->value.storage(), unwatched->value.storage()));
    ASSERT_EQ(many.maps.size(), single.maps.size());
    for (std::size_t i = 0; i < many.maps.size(); ++i) {
      EXPECT_EQ(many.maps[i].kind, single.maps[i].kind);
      EXPECT_EQ(many.maps[i].level, single.maps[i].level);
      EXPECT_EQ(many.maps[i].weights, single.maps[i].weights);
    }
    ASSERT_EQ(many.gates.size(), single.gates.size());
    for (std::size_t i = 0; i < many.gates.size(); ++i)
      EXPECT_EQ(many.gates[i].spatial_share, single.gates[i].spatial_share);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, ProbeOf,
                         ::testing::Values(Network{"neighbourhood", 45, 38, 1, 0, Edge::closed},
                                           Network{"neighbourhood", 40, 48, 2, 1, Edge::periodic},
                                           Network{"windowed", 45, 38, 2, 0, Edge::closed},
                                           Network{"joint", 33, 29, 1, 1, Edge::closed}));

} // namespace
} // namespace pluvia
