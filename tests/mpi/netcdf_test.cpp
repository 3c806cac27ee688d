// A file written by any number of ranks reads back as the same grid, times and fields.
#include "pluvia/io/netcdf.hpp"

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/io/cf_grid.hpp"

using namespace pluvia;
namespace fs = std::filesystem;

namespace {

class NetcdfFile : public ::testing::Test {
protected:
  void SetUp() override {
    std::string name = "pluvia_netcdf_" + std::to_string(::getpid());
    world.broadcast(name, 0);
    folder = (fs::temp_directory_path() / name).string();
  }
  void TearDown() override {
    world.barrier();
    if (world.rank() == 0) fs::remove_all(folder);
    world.barrier();
  }
  Rect tile(Index ny, Index nx) const {
    const GridShape shape = choose_grid_shape(ny, nx, 2, world.size());
    return Tiling(ny, nx, 2, shape.rows, shape.cols).tile(world.rank(), 0);
  }
  Communicator world{MPI_COMM_WORLD};
  std::string folder;
};

float field_value(long t, Index y, Index x) {
  if ((t + y + x) % 11 == 0) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(200 + 10 * t) + 0.37F * static_cast<float>(y) -
         0.011F * static_cast<float>(x * x);
}

std::vector<float> field_tile(long t, const Rect& rect) {
  std::vector<float> out;
  for (Index y = rect.y0; y < rect.y1; ++y)
    for (Index x = rect.x0; x < rect.x1; ++x) out.push_back(field_value(t, y, x));
  return out;
}

Grid latlon(Index ny, Index nx) {
  Grid grid;
  for (Index i = 0; i < ny; ++i) grid.y.push_back(-10 + 0.1 * static_cast<double>(i));
  for (Index i = 0; i < nx; ++i) grid.x.push_back(-90 + 0.1 * static_cast<double>(i));
  return grid;
}

} // namespace

TEST_F(NetcdfFile, ReadsBackWhatAllRanksWrote) {
  const Index ny = 37, nx = 1030; // wider than a chunk, cut unevenly
  const Grid grid = latlon(ny, nx);
  const Rect mine = tile(ny, nx);
  const std::string path = folder + "/made/on/the/way/archive.nc";
  {
    NcWriter file(world, path);
    write_grid(file, grid);
    write_time_axis(file, NcWriter::unlimited, "time of the image");
    file.set_text("", "Conventions", "CF-1.11");
    file.add_field("tb", NcType::f32, {"time", "lat", "lon"});
    file.set_text("tb", "units", "K");
    set_grid_attributes(file, grid, "tb");
    file.add_field("mask", NcType::u8, {"lat", "lon"});
    file.write_tile("mask", {}, {}, mine,
                    std::vector<std::uint8_t>(static_cast<std::size_t>(mine.cells()), 7));
    for (long t = 0; t < 3; ++t) {
      write_time(file, static_cast<std::size_t>(t), 1577772000 + 1800 * t);
      file.write_tile("tb", {static_cast<std::size_t>(t)}, {1}, mine, field_tile(t, mine));
    }
    EXPECT_FALSE(fs::exists(path)) << "a reader must not see the file before commit";
    file.commit();
  }
  EXPECT_FALSE(fs::exists(path + ".part"));
  const NcReader file(path);
  const NcVariable tb = file.variable("tb");
  EXPECT_EQ(tb.dimensions, (std::vector<std::string>{"time", "lat", "lon"}));
  EXPECT_EQ(tb.extents, (std::vector<std::size_t>{3, 37, 1030}));
  EXPECT_EQ(read_grid(file, tb), grid);
  EXPECT_EQ(read_times(file, "time"), (std::vector<Time>{1577772000, 1577773800, 1577775600}));
  EXPECT_EQ(file.text("tb", "grid_mapping"), "crs");
  EXPECT_EQ(file.text("crs", "grid_mapping_name"), "latitude_longitude");
  EXPECT_EQ(file.numbers("tb", "_FillValue"), std::vector<double>{static_cast<double>(NcWriter::fill)});
  const std::vector<double> bounds = file.values("lat_bnds");
  EXPECT_NEAR(bounds[0], -10.05, 1e-12);
  EXPECT_NEAR(bounds[1], -9.95, 1e-12);
  const Rect all{0, ny, 0, nx};
  std::vector<float> read(static_cast<std::size_t>(all.cells()));
  for (long t = 0; t < 3; ++t) {
    file.read("tb", {static_cast<std::size_t>(t), 0, 0}, {1, 37, 1030}, read);
    const std::vector<float> expected = field_tile(t, all);
    for (std::size_t i = 0; i < read.size(); ++i)
      ASSERT_TRUE(read[i] == expected[i] || (std::isnan(read[i]) && std::isnan(expected[i])))
          << t << " " << i;
  }
  for (double v : file.values("mask")) ASSERT_EQ(v, 7);
}

TEST_F(NetcdfFile, AnotherThreadReadsWhileAllRanksWrite) {
  const Grid grid = latlon(64, 96);
  const Rect mine = tile(64, 96);
  const auto write = [&](const std::string& path) {
    NcWriter file(world, path);
    write_grid(file, grid);
    write_time_axis(file, NcWriter::unlimited, "time");
    file.add_field("tb", NcType::f32, {"time", "lat", "lon"});
    for (long t = 0; t < 8; ++t) {
      write_time(file, static_cast<std::size_t>(t), 3600 * t);
      file.write_tile("tb", {static_cast<std::size_t>(t)}, {1}, mine, field_tile(t, mine));
    }
    file.commit();
  };
  write(folder + "/before.nc");
  std::atomic<bool> writing{true};
  std::atomic<int> read{0}, wrong{0};
  std::thread prefetch([&] {
    while (writing || read == 0) {
      const NcReader file(folder + "/before.nc");
      for (long t = 0; t < 8; ++t, ++read) {
        std::vector<float> values(static_cast<std::size_t>(mine.cells()));
        file.read("tb",
                  {static_cast<std::size_t>(t), static_cast<std::size_t>(mine.y0),
                   static_cast<std::size_t>(mine.x0)},
                  {1, static_cast<std::size_t>(mine.height()), static_cast<std::size_t>(mine.width())},
                  values);
        const std::vector<float> expected = field_tile(t, mine);
        for (std::size_t i = 0; i < values.size(); ++i)
          if (values[i] != expected[i] && !std::isnan(expected[i])) ++wrong;
      }
    }
  });
  write(folder + "/during.nc");
  writing = false;
  prefetch.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(read, 8);
}

TEST_F(NetcdfFile, KeepsAProjection) {
  Grid grid;
  grid.kind = Grid::Kind::projected;
  grid.y_name = "y", grid.x_name = "x", grid.y_units = grid.x_units = "m";
  for (int i = 0; i < 8; ++i) grid.y.push_back(5000.0 - 1000 * i), grid.x.push_back(1000.0 * i);
  grid.mapping_texts = {{"grid_mapping_name", "polar_stereographic"}};
  grid.mapping_numbers = {{"straight_vertical_longitude_from_pole", {10.0}}, {"standard_parallel", {60.0}}};
  const Rect mine = tile(8, 8);
  const std::string path = folder + "/projected.nc";
  NcWriter file(world, path);
  write_grid(file, grid);
  write_latitude_longitude(file, grid, mine, field_tile(1, mine), field_tile(2, mine));
  file.add_field("rain", NcType::f32, {"y", "x"});
  set_grid_attributes(file, grid, "rain");
  file.write_tile("rain", {}, {}, mine, field_tile(0, mine));
  file.commit();

  const NcReader reader(path);
  const NcVariable rain = reader.variable("rain");
  const Grid read = read_grid(reader, rain);
  EXPECT_EQ(read, grid);
  const Rect part{2, 5, 1, 7};
  const auto latitudes = read_coordinate(reader, rain, read, part, Coordinate::latitude);
  const auto longitudes = read_coordinate(reader, rain, read, part, Coordinate::longitude);
  const auto lat = field_tile(1, part), lon = field_tile(2, part);
  for (std::size_t i = 0; i < lat.size(); ++i) {
    EXPECT_TRUE(latitudes[i] == lat[i] || std::isnan(lat[i]));
    EXPECT_TRUE(longitudes[i] == lon[i] || std::isnan(lon[i]));
  }
}

TEST_F(NetcdfFile, LeavesNothingBehindWithoutCommit) {
  const std::string path = folder + "/dropped.nc";
  {
    NcWriter file(world, path);
    write_grid(file, latlon(8, 8));
  }
  world.barrier();
  EXPECT_FALSE(fs::exists(path));
  EXPECT_FALSE(fs::exists(path + ".part"));
}

TEST_F(NetcdfFile, RefusesAPlaceItCannotWriteTo) {
  EXPECT_THROW(NcWriter(world, "/proc/nowhere/file.nc"), Error);
  if (world.rank() == 0) fs::create_directories(folder + "/taken.nc");
  world.barrier();
  EXPECT_THROW(NcWriter(world, folder + "/taken.nc"), Error);
}

TEST_F(NetcdfFile, RefusesToStartAWriteWithoutRoom) {
  const std::string path = folder + "/vast.nc";
  const std::size_t side = std::size_t{1} << 24; // a petabyte
  const auto attempt = [&] {
    NcWriter file(world, path);
    file.add_dimension("lat", side);
    file.add_dimension("lon", side);
    file.add_field("tb", NcType::f32, {"lat", "lon"});
    const Rect mine{world.rank(), world.rank() + 1, 0, 1};
    file.write_tile("tb", {}, {}, mine, std::vector<float>{1.0F});
  };
  EXPECT_THROW(attempt(), Error);
  world.barrier();
  EXPECT_FALSE(fs::exists(path));
  EXPECT_FALSE(fs::exists(path + ".part"));
}

TEST_F(NetcdfFile, LeavesNothingBehindOnAFullDisk) {
  // A limit on the size of files stands in for a full disk. On one rank alone: when a write fails inside
  // MPI-IO, Open MPI's collective write does not return on the other ranks (which is why the writer asks for
  // room first).
  if (world.size() > 1) GTEST_SKIP();
  const std::string path = folder + "/full.nc";
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const auto attempt = [&] {
    NcWriter file(world, path);
    const Rect mine = tile(512, 512);
    write_grid(file, latlon(512, 512));
    file.add_field("tb", NcType::f32, {"lat", "lon"});
    rlimit limit = before;
    limit.rlim_cur = 20'000;
    setrlimit(RLIMIT_FSIZE, &limit);
    file.write_tile("tb", {}, {}, mine, field_tile(3, mine));
    file.commit();
  };
  EXPECT_THROW(attempt(), Error);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  world.barrier();
  EXPECT_FALSE(fs::exists(path));
  EXPECT_FALSE(fs::exists(path + ".part"));
}

TEST_F(NetcdfFile, PacksToTheNearestAndWritesFramesOfDifferentRanksTogether) {
  const Index ny = 5, nx = 6;
  const std::string path = folder + "/packed.nc";
  const auto value = [](int rank, std::size_t i) {
    return i % 7 == 0 ? std::numeric_limits<float>::quiet_NaN()
                      : static_cast<float>(220.123 + rank) + 0.004F * static_cast<float>(i);
  };
  const auto frame = [&](int rank) {
    std::vector<float> out;
    for (std::size_t i = 0; i < static_cast<std::size_t>(ny * nx); ++i) out.push_back(value(rank, i));
    return out;
  };
  {
    NcWriter file(world, path);
    write_grid(file, latlon(ny, nx));
    write_time_axis(file, NcWriter::unlimited, "time");
    file.add_packed_field("tb", {"time", "lat", "lon"}, 0.01, 250);
    file.write_tile("tb", {static_cast<std::size_t>(world.rank())}, {1}, {0, ny, 0, nx}, frame(world.rank()));
    file.commit();
  }
  const NcReader file(path);
  const std::vector<double> read = file.values("tb");
  ASSERT_EQ(read.size(), static_cast<std::size_t>(world.size() * ny * nx));
  for (int rank = 0; rank < world.size(); ++rank)
    for (std::size_t i = 0; i < static_cast<std::size_t>(ny * nx); ++i) {
      const double got = read[static_cast<std::size_t>(rank * ny * nx) + i];
      if (std::isnan(value(rank, i)))
        EXPECT_TRUE(std::isnan(got));
      else
        EXPECT_NEAR(got, value(rank, i), 0.00501);
    }

  NcWriter other(world, folder + "/beyond.nc");
  write_grid(other, latlon(ny, nx));
  write_time_axis(other, NcWriter::unlimited, "time");
  other.add_packed_field("tb", {"time", "lat", "lon"}, 0.01, 250);
  std::vector<float> beyond = frame(0);
  if (world.rank() == world.size() - 1) beyond[3] = 600;
  EXPECT_THROW(other.write_tile("tb", {static_cast<std::size_t>(world.rank())}, {1}, {0, ny, 0, nx}, beyond),
               Error)
      << "on all ranks, though only one is at fault";
}
