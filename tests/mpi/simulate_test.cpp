#include "../../src/apps/commands.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/physics/satellite.hpp"

namespace pluvia {
namespace {

class SimulateTest : public ::testing::Test {
protected:
  Communicator world_{MPI_COMM_WORLD};
  std::filesystem::path folder_;
  Settings settings_;

  void SetUp() override {
    std::string name =
        std::filesystem::temp_directory_path() / ("pluvia_simulate_" + std::to_string(getpid()));
    world_.broadcast(name, 0);
    folder_ = name;
    settings_.simulate.ny = 22, settings_.simulate.nx = 25;
    settings_.simulate.cell_km = 50; // few inner steps
    settings_.simulate.days = 0.25;
  }
  void TearDown() override {
    world_.barrier();
    if (world_.rank() == 0) std::filesystem::remove_all(folder_);
  }
  std::string simulate(const Communicator& comm, const std::string& name) {
    settings_.simulate.output = folder_ / name;
    EXPECT_EQ(commands::simulate(comm, settings_, Log(Log::Voice::silent)), ExitCode::done);
    world_.barrier();
    return settings_.simulate.output;
  }
};

std::vector<std::uint64_t> bits(const NcReader& file, const std::string& variable) {
  std::vector<std::uint64_t> out;
  for (double v : file.values(variable)) out.push_back(std::bit_cast<std::uint64_t>(v));
  return out;
}

TEST_F(SimulateTest, WritesTheSameDataOnEveryRankCount) {
  settings_.simulate.missing_lines = 0.1;
  const Communicator alone = world_.split(world_.rank(), 0);
  const NcReader together(simulate(world_, "together.nc"));
  const NcReader single(simulate(alone, "alone" + std::to_string(world_.rank()) + ".nc"));
  for (const NcVariable& v : single.variables()) {
    ASSERT_TRUE(together.has(v.name)) << v.name;
    EXPECT_EQ(together.variable(v.name).extents, v.extents) << v.name;
    EXPECT_EQ(bits(together, v.name), bits(single, v.name)) << v.name;
  }
}

TEST_F(SimulateTest, WritesFramesFromTheFirstTimeOnInTheirUnits) {
  settings_.simulate.from = "2020-02-28T22:00";
  settings_.simulate.frame_minutes = 30;
  const NcReader file(simulate(world_, "archive.nc"));
  const std::vector<Time> times = read_times(file, "time");
  ASSERT_EQ(times.size(), 12u);
  EXPECT_EQ(times.front(), parse_time("2020-02-28T22:00"));
  EXPECT_EQ(times.back(), parse_time("2020-02-29T03:30"));
  // The rain of a frame fell before its time.
  const std::vector<double> bounds = file.values("time_bnds");
  ASSERT_EQ(bounds.size(), 24u);
  EXPECT_EQ(bounds[23], static_cast<double>(times.back()));
  EXPECT_EQ(bounds[22], static_cast<double>(times.back() - 1800));
  EXPECT_EQ(file.variable("rain").dimensions, (std::vector<std::string>{"time", "lat", "lon"}));
  EXPECT_EQ(file.text("rain", "units"), "mm h-1");
  for (double land : file.values("land_mask")) ASSERT_TRUE(land == 0 || land == 1);
  for (double rain : file.values("rain")) ASSERT_GE(rain, 0);
  for (double kelvin : file.values("tb_window")) ASSERT_TRUE(kelvin > 185 && kelvin < 310) << kelvin;
  for (double kelvin : file.values("tb_vapour")) ASSERT_TRUE(kelvin > 185 && kelvin < 262) << kelvin;
  const Grid grid = read_grid(file, file.variable("rain"));
  EXPECT_NEAR(grid.y[1] - grid.y[0], 50 / 111.2, 1e-9);
  EXPECT_FALSE(std::filesystem::exists(settings_.simulate.output + ".part"));
}

TEST_F(SimulateTest, LosesFramesAndLinesAtTheirRate) {
  settings_.simulate.days = 3;
  const NcReader whole(simulate(world_, "whole.nc"));
  settings_.simulate.missing_frames = 0.3, settings_.simulate.missing_lines = 0.2;
  const NcReader spoilt(simulate(world_, "spoilt.nc"));
  const std::vector<Time> all = read_times(whole, "time"), some = read_times(spoilt, "time");
  ASSERT_EQ(all.size(), 72u);
  EXPECT_NEAR(static_cast<double>(some.size()), 0.7 * 72, 5 * std::sqrt(72 * 0.21));
  const auto cells = static_cast<std::size_t>(settings_.simulate.ny * settings_.simulate.nx);
  const auto width = static_cast<std::size_t>(settings_.simulate.nx);
  const std::vector<double> rain = whole.values("rain"), spoilt_rain = spoilt.values("rain");
  const std::vector<double> window = whole.values("tb_window"), spoilt_window = spoilt.values("tb_window"),
                            spoilt_vapour = spoilt.values("tb_vapour");
  double lost_lines = 0;
  for (std::size_t frame = 0; frame < some.size(); ++frame) {
    const auto at = static_cast<std::size_t>(std::find(all.begin(), all.end(), some[frame]) - all.begin());
    ASSERT_LT(at, all.size());
    for (std::size_t c = 0; c < cells; ++c) {
      // Losses spoil images, not the weather and not the other lines.
      ASSERT_EQ(spoilt_rain[frame * cells + c], rain[at * cells + c]);
      const double value = spoilt_window[frame * cells + c];
      ASSERT_EQ(std::isnan(value), std::isnan(spoilt_window[frame * cells + c / width * width]));
      ASSERT_EQ(std::isnan(value), std::isnan(spoilt_vapour[frame * cells + c]));
      if (std::isnan(value))
        lost_lines += 1.0 / static_cast<double>(width);
      else
        ASSERT_EQ(value, window[at * cells + c]);
    }
  }
  const double lines = static_cast<double>(some.size()) * static_cast<double>(settings_.simulate.ny);
  EXPECT_NEAR(lost_lines, 0.2 * lines, 5 * std::sqrt(0.16 * lines));
}

TEST_F(SimulateTest, MakesNoiseOfTheWantedSize) {
  settings_.simulate.noise_kelvin = 0;
  const NcReader clean(simulate(world_, "clean.nc"));
  settings_.simulate.noise_kelvin = 2;
  const NcReader noisy(simulate(world_, "noisy.nc"));
  EXPECT_EQ(bits(clean, "rain"), bits(noisy, "rain"));
  const std::vector<double> a = clean.values("tb_window"), b = noisy.values("tb_window");
  const std::vector<double> c = clean.values("tb_vapour"), d = noisy.values("tb_vapour");
  double square = 0, product = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    square += (b[i] - a[i]) * (b[i] - a[i]);
    product += (b[i] - a[i]) * (d[i] - c[i]);
  }
  const double n = static_cast<double>(a.size());
  EXPECT_NEAR(std::sqrt(square / n), 2, 10 / std::sqrt(n));
  EXPECT_NEAR(product / n, 0, 5 * 4 / std::sqrt(n)); // the channels are independent
}

TEST_F(SimulateTest, SeesColdCloudsOverRain) {
  settings_.simulate.days = 2;
  settings_.simulate.noise_kelvin = 0;
  const NcReader file(simulate(world_, "archive.nc"));
  const std::vector<double> rain = file.values("rain"), window = file.values("tb_window");
  double wet = 0, wet_kelvin = 0, dry = 0, dry_kelvin = 0;
  for (std::size_t i = 0; i < rain.size(); ++i) {
    if (rain[i] > 1) wet += 1, wet_kelvin += window[i];
    if (rain[i] < 0.01) dry += 1, dry_kelvin += window[i];
  }
  ASSERT_GT(wet, 100);
  ASSERT_GT(dry, 100);
  EXPECT_LT(wet_kelvin / wet + 30, dry_kelvin / dry);
}

} // namespace
} // namespace pluvia
