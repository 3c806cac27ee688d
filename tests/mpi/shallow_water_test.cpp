#include "pluvia/physics/shallow_water.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <numbers>

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"

namespace pluvia {
namespace {

ShallowWaterSetup small_setup() {
  ShallowWaterSetup setup;
  setup.ny = 21, setup.nx = 26; // uneven over 2, 3 and 4 ranks
  setup.frame_seconds = 3600;
  setup.start = 18 * 3600;
  return setup;
}

/// No sources but gravity and rotation.
ShallowWaterPhysics dry() {
  ShallowWaterPhysics physics;
  const double never = 1e30;
  physics.cooling_time = physics.drag_time = physics.evaporation_time = physics.condensation_time = never;
  physics.drag_per_m = physics.land_heating = physics.steering = 0;
  return physics;
}

struct Water {
  double held = 0, rain = 0, evaporation = 0;
};

Water total_water(const Communicator& comm, const ShallowWater& model) {
  double sums[3] = {};
  for (const ShallowWaterCell& cell : model.cells())
    sums[0] += cell.vapour + cell.cloud, sums[1] += cell.rain, sums[2] += cell.evaporation;
  comm.all_reduce(std::span<double>(sums), Reduce::sum);
  return {sums[0], sums[1], sums[2]};
}

/// Cells of `part` whose bytes differ from those of `whole`, a model on one rank.
std::int64_t count_different(const ShallowWater& part, const ShallowWater& whole, Index nx) {
  std::int64_t different = 0;
  const Rect& tile = part.tile();
  auto cell = part.cells().begin();
  for (Index y = tile.y0; y < tile.y1; ++y)
    for (Index x = tile.x0; x < tile.x1; ++x, ++cell)
      different +=
          std::memcmp(&*cell, &whole.cells()[static_cast<std::size_t>(y * nx + x)], sizeof *cell) != 0;
  return different;
}

class ShallowWaterTest : public ::testing::Test {
protected:
  Communicator world_{MPI_COMM_WORLD};
  PetscSession petsc_{world_};
};

TEST_F(ShallowWaterTest, GivesTheSameBitsOnEveryRankCount) {
  const ShallowWaterSetup setup = small_setup();
  const Communicator alone = world_.split(world_.rank(), 0);
  ShallowWater part(petsc_, world_, setup), whole(petsc_, alone, setup);
  ASSERT_EQ(whole.tile(), (Rect{0, setup.ny, 0, setup.nx}));
  EXPECT_EQ(part.geometry().land.size(), static_cast<std::size_t>(part.tile().cells()));
  double rain = 0;
  for (int frame = 0; frame < 30; ++frame) {
    part.advance(), whole.advance();
    ASSERT_EQ(count_different(part, whole, setup.nx), 0) << "frame " << frame;
    for (const ShallowWaterCell& cell : whole.cells()) rain += cell.rain;
  }
  EXPECT_GT(rain, 0); // otherwise this test has seen nothing
}

TEST_F(ShallowWaterTest, ClosesTheWaterBudgetAndKeepsWaterPositive) {
  ShallowWater model(petsc_, world_, small_setup());
  Water before = total_water(world_, model);
  double rained = 0;
  for (int frame = 0; frame < 48; ++frame) {
    model.advance();
    const Water after = total_water(world_, model);
    EXPECT_NEAR(after.held - before.held, after.evaporation - after.rain, 1e-12 * after.held) << frame;
    EXPECT_GT(after.evaporation, 0);
    rained += after.rain;
    before = after;
    for (const ShallowWaterCell& cell : model.cells()) {
      ASSERT_GT(cell.thickness, 0);
      ASSERT_GE(cell.vapour, 0);
      ASSERT_GE(cell.cloud, 0);
      ASSERT_GE(cell.rain, 0);
    }
  }
  EXPECT_GT(rained, 0);
}

TEST_F(ShallowWaterTest, KeepsALakeAtRest) {
  ShallowWaterSetup setup = small_setup();
  setup.physics = dry();
  ShallowWater model(petsc_, world_, setup);
  for (int frame = 0; frame < 3; ++frame) model.advance();
  for (const ShallowWaterCell& cell : model.cells()) {
    ASSERT_EQ(cell.thickness, setup.physics.depth);
    ASSERT_EQ(cell.momentum_x, 0);
    ASSERT_EQ(cell.momentum_y, 0);
  }
}

TEST_F(ShallowWaterTest, MovesGravityWavesAtTheirSpeed) {
  ShallowWaterSetup setup;
  setup.ny = 8, setup.nx = 64;
  setup.centre_latitude = 0; // the Coriolis force vanishes
  setup.frame_seconds = 20000;
  setup.physics = dry();
  ShallowWater model(petsc_, world_, setup);
  const double height = 1, depth = setup.physics.depth, speed = std::sqrt(setup.physics.gravity * depth);
  const double wave_number = 2 * std::numbers::pi / static_cast<double>(setup.nx);
  std::vector<ShallowWaterCell> cells = model.cells();
  const Rect tile = model.tile();
  const auto column = [&](std::size_t i) {
    return static_cast<double>(tile.x0 + static_cast<Index>(i) % tile.width());
  };
  for (std::size_t i = 0; i < cells.size(); ++i) {
    // A wave to the east: u = h' sqrt(g / H).
    const double rise = height * std::cos(wave_number * column(i));
    cells[i].thickness = depth + rise;
    cells[i].momentum_x = (depth + rise) * rise * speed / depth;
  }
  model.set_cells(cells);
  model.advance();
  double sums[2] = {};
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const double rise = model.cells()[i].thickness - depth;
    sums[0] += rise * std::cos(wave_number * column(i)), sums[1] += rise * std::sin(wave_number * column(i));
  }
  world_.all_reduce(std::span<double>(sums), Reduce::sum);
  const std::complex<double> wave =
      std::complex(sums[0], sums[1]) * 2.0 / static_cast<double>(setup.ny * setup.nx);
  const double distance_km = std::arg(wave) / wave_number * setup.cell_km;
  EXPECT_NEAR(distance_km, speed * 20, 0.01 * speed * 20); // 500 km in 20000 s
  EXPECT_NEAR(std::abs(wave), height, 0.02 * height);      // the limiter takes little
}

TEST_F(ShallowWaterTest, CarriesWaterWithTheSteeringWind) {
  ShallowWaterSetup setup;
  setup.ny = 8, setup.nx = 64;
  setup.centre_latitude = 0;
  setup.frame_seconds = 40000;
  setup.physics = dry();
  setup.physics.steering = 8;
  setup.physics.cloud_evaporation_time = setup.physics.rain_time = 1e30;
  ShallowWater model(petsc_, world_, setup);
  std::vector<ShallowWaterCell> cells = model.cells();
  const Rect tile = model.tile();
  const auto place = [&](std::size_t i) { return tile.x0 + static_cast<Index>(i) % tile.width(); };
  const auto bump = [](double x) { return 3 * std::exp(-x * x / 50); };
  for (std::size_t i = 0; i < cells.size(); ++i) cells[i].cloud = bump(static_cast<double>(place(i) - 40));
  model.set_cells(cells);
  model.advance();
  double worst = 0;
  for (std::size_t i = 0; i < cells.size(); ++i)
    worst = std::max(worst, std::abs(model.cells()[i].cloud - bump(static_cast<double>(place(i) - 24))));
  EXPECT_LT(worst, 0.2); // 16 cells to the west
}

TEST_F(ShallowWaterTest, DoesNotFeedAStormOfOneCell) {
  ShallowWaterSetup setup = small_setup();
  setup.physics.forcing = setup.physics.land_heating = setup.physics.steering = 0;
  ShallowWater model(petsc_, world_, setup);
  std::vector<ShallowWaterCell> cells = model.cells();
  const Rect tile = model.tile();
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const auto row = static_cast<Index>(i) / tile.width(), column = static_cast<Index>(i) % tile.width();
    const bool storm = tile.y0 + row == setup.ny / 2 && tile.x0 + column == setup.nx / 2;
    cells[i].vapour = model.geometry().saturation[static_cast<std::size_t>(row)] * (storm ? 2 : 1);
  }
  model.set_cells(cells);
  double most[12] = {};
  for (double& most_rain : most) {
    model.advance();
    for (const ShallowWaterCell& cell : model.cells()) most_rain = std::max(most_rain, cell.rain);
    world_.all_reduce(std::span<double>(&most_rain, 1), Reduce::max);
  }
  // The excess rains out; the air that rushes in leaves with its water.
  EXPECT_GT(*std::max_element(most, most + 12), 10);
  EXPECT_LT(most[11], 0.2 * *std::max_element(most, most + 12));
}

TEST_F(ShallowWaterTest, StopsAllRanksWhenTheFlowOutrunsTheStep) {
  ShallowWaterSetup setup = small_setup();
  setup.frame_seconds = 600;
  ShallowWater model(petsc_, world_, setup);
  std::vector<ShallowWaterCell> cells = model.cells();
  // A wind of 60 m/s outlasts ten minutes of drag.
  for (ShallowWaterCell& cell : cells) cell.momentum_x = 60 * cell.thickness;
  model.set_cells(cells);
  try {
    model.advance();
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::failed);
    EXPECT_NE(std::string(error.what()).find("too fast"), std::string::npos) << error.what();
  }
}

TEST_F(ShallowWaterTest, IsAFunctionOfTheSeed) {
  ShallowWaterSetup setup = small_setup();
  const Communicator alone = world_.split(world_.rank(), 0);
  ShallowWater one(petsc_, alone, setup), again(petsc_, alone, setup);
  setup.seed = 2;
  ShallowWater other(petsc_, alone, setup);
  for (int frame = 0; frame < 3; ++frame) one.advance(), again.advance(), other.advance();
  EXPECT_EQ(count_different(one, again, setup.nx), 0);
  EXPECT_EQ(count_different(one, other, setup.nx), setup.ny * setup.nx);
}

TEST_F(ShallowWaterTest, RefusesWhatItCannotSimulate) {
  const auto code = [&](const ShallowWaterSetup& setup) {
    try {
      ShallowWater model(petsc_, world_, setup);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::done;
  };
  ShallowWaterSetup setup = small_setup();
  setup.ny = 2000;
  EXPECT_EQ(code(setup), ExitCode::usage);
  setup.ny = 2, setup.nx = 1;
  EXPECT_EQ(code(setup), ExitCode::usage);
}

} // namespace
} // namespace pluvia
