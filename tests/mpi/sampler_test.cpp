// ranks: 1 3
// Disturbances of training samples: drawn at the rates asked for, the same on every tile and part of the
// frames.
#include "pluvia/data/sampler.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "scratch.hpp"

namespace pluvia {
namespace {

constexpr Time hour = 3600, start = 1577836800; // 2020-01-01
constexpr Index ny = 6, nx = 7, history = 4;
constexpr std::size_t predictors = 4, plenty = std::size_t{1} << 24;
enum : std::size_t { tb, vapour, rain, land };

class Disturbed : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  test::ScratchFolder folder{world};
  Rect domain{0, ny, 0, nx};
  ArchiveIndex index;
  SampleRule rule;
  Normalisation none{std::vector<float>(predictors, 0), std::vector<float>(predictors, 1)};

  virtual float value(const std::string&, std::size_t) const { return 2; }

  void SetUp() override {
    Grid grid;
    for (Index y = 0; y < ny; ++y) grid.y.push_back(0.5 * static_cast<double>(y));
    for (Index x = 0; x < nx; ++x) grid.x.push_back(0.5 * static_cast<double>(x));
    const std::string path = folder / "archive.nc";
    NcWriter file(world, path);
    write_grid(file, grid);
    write_time_axis(file, NcWriter::unlimited, "time");
    for (const char* name : {"tb", "vapour", "rain", "land"}) {
      const bool constant = std::string(name) == "land";
      file.add_field(name, NcType::f32,
                     constant ? std::vector<std::string>{"lat", "lon"}
                              : std::vector<std::string>{"time", "lat", "lon"});
      set_grid_attributes(file, grid, name);
    }
    const Rect tile = world.rank() == 0 ? domain : Rect{};
    const auto field = [&](const std::string& name) {
      std::vector<float> out(static_cast<std::size_t>(tile.cells()));
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = value(name, i);
      return out;
    };
    for (std::size_t t = 0; t < 24; ++t) {
      write_time(file, t, start + static_cast<Time>(t) * hour);
      for (const char* name : {"tb", "vapour", "rain"}) file.write_tile(name, {t}, {1}, tile, field(name));
    }
    file.write_tile("land", {}, {}, tile, field("land"));
    file.commit();
    index = index_archive(world, {path});

    Settings settings;
    settings.data.predictors = {"tb", "vapour", "rain", "land"};
    settings.data.target = "rain";
    settings.data.latency_minutes = {{"vapour", 60}};
    settings.model.history = history;
    rule = make_sample_rule(settings);
  }

  Sampler sampler(const Rect& tile) { return {index, rule, tile, plenty}; }
  Tensor features(Sampler& from, const Disturbance& disturbance, Span frames = {0, history}) {
    const std::vector<std::vector<float>> base(
        rule.leads.size(), std::vector<float>(static_cast<std::size_t>(from.tile().cells() * rule.classes()),
                                              1.0F / static_cast<float>(rule.classes())));
    return from.input(start + 12 * hour, none, base, {}, frames, disturbance).features;
  }
};

TEST_F(Disturbed, AtTheRatesAskedFor) {
  constexpr int samples = 2000;
  constexpr double share = 0.3, deviation = 2;
  Sampler whole = sampler({0, 1, 0, 1});
  const float usual = features(whole, {}).cell(0, 0, 0, 0)[tb];
  EXPECT_EQ(usual, 2);
  int lost[predictors][history] = {};
  double sum = 0, squares = 0;
  for (int s = 0; s < samples; ++s) {
    const Tensor seen = features(whole, {share, deviation, 7, static_cast<std::uint64_t>(s)});
    double offset = 0;
    for (Index f = 0; f < history; ++f) {
      const float* cell = seen.cell(0, f, 0, 0);
      for (std::size_t p = 0; p < predictors; ++p) {
        const bool valid = cell[predictors + p] == 1;
        lost[p][f] += valid ? 0 : 1;
        if (!valid) {
          EXPECT_EQ(cell[p], 0);
        } else if (p == tb || p == vapour) {
          if (offset == 0) offset = cell[p] - usual;
          EXPECT_EQ(cell[p] - usual, offset) << "one offset a sample";
        } else {
          EXPECT_EQ(cell[p], p == land ? 2 : std::log1p(2.0F));
        }
      }
    }
    const auto arrived = [&](std::size_t p, Index f) { return seen.cell(0, f, 0, 0)[predictors + p] == 1; };
    EXPECT_TRUE(arrived(tb, 3) || arrived(vapour, 2) || arrived(rain, 3)) << "nothing recent is left";
    if (offset == 0) continue; // neither was seen at all
    sum += offset, squares += offset * offset;
  }
  const double sigma = std::sqrt(samples * share * (1 - share));
  for (std::size_t p : {tb, vapour, rain})
    for (Index f = 0; f < history; ++f) {
      const bool late = p == vapour && f == 3, newest = f == (p == vapour ? 2 : 3);
      const double expected = late ? 1 : newest ? share - share * share * share / 3 : share;
      EXPECT_NEAR(lost[p][f], samples * expected, 4 * sigma) << p << ", " << f;
    }
  for (int n : lost[land]) EXPECT_EQ(n, 0);
  EXPECT_NEAR(sum / samples, 0, 4 * deviation / std::sqrt(samples));
  EXPECT_NEAR(std::sqrt(squares / samples), deviation, 4 * deviation / std::sqrt(2 * samples));
}

TEST_F(Disturbed, TheSameOnEveryTileAndPartOfTheFrames) {
  const GridShape shape = choose_grid_shape(ny, nx, 1, world.size());
  const Rect tile = Tiling(ny, nx, 1, shape.rows, shape.cols).tile(world.rank(), 0);
  Sampler whole = sampler(domain), part = sampler(tile);
  for (std::uint64_t sample = 0; sample < 20; ++sample) {
    const Disturbance disturbance{0.5, 1, 3, sample};
    const Tensor all = features(whole, disturbance);
    for (Index f = 0; f < history; ++f) {
      const Tensor one = features(part, disturbance, {f, f + 1});
      for (Index y = tile.y0; y < tile.y1; ++y)
        for (Index x = tile.x0; x < tile.x1; ++x)
          for (std::size_t c = 0; c < 2 * predictors; ++c)
            ASSERT_EQ(one.cell(0, 0, y - tile.y0, x - tile.x0)[c], all.cell(0, f, y, x)[c]);
    }
  }
}

/// Pressure in Pa and elevation in m beside brightness temperature.
class Large : public Disturbed {
protected:
  float value(const std::string& name, std::size_t cell) const override {
    const auto i = static_cast<float>(cell);
    return name == "tb" ? 200 + i : name == "vapour" ? 1e5F + 20 * i : name == "land" ? 200 * i : 2;
  }
};

TEST_F(Large, IsNormalisedLikeTheSmall) {
  const GridShape shape = choose_grid_shape(ny, nx, 1, world.size());
  Sampler part = sampler(Tiling(ny, nx, 1, shape.rows, shape.cols).tile(world.rank(), 0));
  const std::vector<TimeSpan> spans{{start, start + 24 * hour}};
  const Normalisation is = part.measure(world, spans, {});
  constexpr double cells = static_cast<double>(ny * nx);
  const double mean = (cells - 1) / 2, deviation = std::sqrt((cells * cells - 1) / 12);
  EXPECT_NEAR(is.mean[tb], 200 + mean, 1e-3);
  EXPECT_NEAR(is.deviation[tb], deviation, 1e-3);
  EXPECT_NEAR(is.mean[vapour], 1e5 + 20 * mean, 0.1);
  EXPECT_NEAR(is.deviation[vapour], 20 * deviation, 0.02 * deviation);
  EXPECT_NEAR(is.mean[land], 200 * mean, 0.1);
  EXPECT_NEAR(is.deviation[land], 200 * deviation, 0.02 * deviation);
}

} // namespace
} // namespace pluvia
