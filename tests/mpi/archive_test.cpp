// Archives of every kind that the reader accepts, made here, and the real one read against another library.
// ranks: 1 3
#include "pluvia/data/archive.hpp"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>

#include <gtest/gtest.h>

#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "scratch.hpp"

using namespace pluvia;
using pluvia::test::failure_of;
namespace fs = std::filesystem;

namespace {

constexpr Time start = 1577772000; // 2019-12-31T06:00Z
constexpr Time half_hour = 1800;
constexpr Index ny = 7, nx = 9;
const float missing = std::numeric_limits<float>::quiet_NaN();

class Archive : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  test::ScratchFolder folder{world};

  Grid grid(bool descending = false) const {
    Grid g;
    for (Index i = 0; i < ny; ++i)
      g.y.push_back((descending ? -1.0 : 1.0) * (0.5 * static_cast<double>(i) - 1.5));
    for (Index i = 0; i < nx; ++i) g.x.push_back(-80 + 0.5 * static_cast<double>(i));
    return g;
  }
  /// Rank 0's tile is the whole grid; the others take part with nothing.
  Rect whole() const { return world.rank() == 0 ? Rect{0, ny, 0, nx} : Rect{}; }

  /// Writes rain(time, y, x) = value(frame, y, x) at the given times.
  template <class Value>
  std::string write(const std::string& name, const std::vector<Time>& times, Value value, const Grid& g) {
    const std::string path = folder / name;
    NcWriter file(world, path);
    write_grid(file, g);
    write_time_axis(file, NcWriter::unlimited, "time");
    file.add_field("rain", NcType::f32, {"time", g.y_name, g.x_name});
    set_grid_attributes(file, g, "rain");
    for (std::size_t t = 0; t < times.size(); ++t) {
      write_time(file, t, times[t]);
      std::vector<float> values;
      for (Index y = whole().y0; y < whole().y1; ++y)
        for (Index x = 0; x < nx; ++x) values.push_back(value(t, y, x));
      file.write_tile("rain", {t}, {1}, whole(), values);
    }
    file.commit();
    return path;
  }
  std::string write_constant(const std::string& name, const std::vector<Time>& times, float rate) {
    return write(
        name, times, [&](std::size_t, Index, Index) { return rate; }, grid());
  }
  static std::vector<Time> regular(int frames, const std::vector<int>& without = {}) {
    std::vector<Time> out;
    for (int i = 0; i < frames; ++i)
      if (std::find(without.begin(), without.end(), i) == without.end()) out.push_back(start + i * half_hour);
    return out;
  }
  Rect mine() const { return Tiling(ny, nx, 1, 1, world.size()).tile(world.rank(), 0); }
};

constexpr std::size_t plenty = std::size_t{1} << 30;

} // namespace

TEST_F(Archive, GlobsOfFilesAreOneArchiveWithGaps) {
  const auto value = [](std::size_t t, Index y, Index x) { return static_cast<float>(100 * t + 10 * y + x); };
  write("day_2.nc", {start + 4 * half_hour, start + 5 * half_hour}, value, grid());
  write("day_1.nc", {start, start + half_hour, start + 2 * half_hour}, value, grid());
  const ArchiveIndex index = index_archive(world, {folder / "day_*.nc", folder / "day_1.nc"});
  ASSERT_EQ(index.frames.size(), 5U);
  EXPECT_EQ(index.step, half_hour);
  EXPECT_EQ(index.variables, std::vector<std::string>{"rain"});
  EXPECT_EQ(index.grid, grid());
  EXPECT_EQ(find_frame(index, start + 4 * half_hour), 3U);
  EXPECT_EQ(find_frame(index, start + 4 * half_hour - 899), 3U);
  EXPECT_FALSE(find_frame(index, start + 3 * half_hour)) << "a gap is a missing frame";
  EXPECT_FALSE(find_frame(index, start - 900)) << "half a frame away is no match";

  ArchiveReader reader(index, mine(), plenty);
  EXPECT_TRUE(reader.read("rain", start + 3 * half_hour).empty());
  for (std::size_t t : {0U, 4U, 2U}) {
    const auto values = reader.read("rain", index.frames[t].time);
    std::size_t i = 0;
    for (Index y = mine().y0; y < mine().y1; ++y)
      for (Index x = mine().x0; x < mine().x1; ++x) EXPECT_EQ(values[i++], value(t < 3 ? t : t - 3, y, x));
  }
  EXPECT_EQ(failure_of([&] { reader.read("snow", start); }).code, ExitCode::usage);
}

TEST_F(Archive, FieldsWithoutTimeAreTheSameInEveryFrame) {
  const auto frames = [](std::size_t t, Index, Index) { return static_cast<float>(t); };
  write("a_frames.nc", regular(3), frames, grid());
  const auto write_constant_field = [&](const std::string& name, const std::string& field, const Grid& g) {
    NcWriter file(world, folder / name);
    write_grid(file, g);
    file.add_field(field, NcType::f32, {g.y_name, g.x_name});
    set_grid_attributes(file, g, field);
    std::vector<float> values;
    for (Index i = 0; i < whole().cells(); ++i) values.push_back(static_cast<float>(i));
    file.write_tile(field, {}, {}, whole(), values);
    file.commit();
  };
  // In files of their own, before and after those of the frames.
  write_constant_field("0_terrain.nc", "elevation", grid());
  write_constant_field("z_land.nc", "land", grid());
  const ArchiveIndex index = index_archive(world, {folder / "*.nc"});
  EXPECT_EQ(index.frames.size(), 3U);
  EXPECT_EQ(index.variables, std::vector<std::string>{"rain"});
  ASSERT_EQ(index.constants.size(), 2U);

  ArchiveReader reader(index, mine(), plenty);
  for (const Time time : {start, start + 2 * half_hour, start + 50 * half_hour})
    for (const char* name : {"elevation", "land"}) {
      const auto values = reader.read(name, time);
      ASSERT_EQ(static_cast<Index>(values.size()), mine().cells());
      EXPECT_EQ(values[1], static_cast<float>(mine().y0 * nx + mine().x0 + 1)) << name;
    }
  EXPECT_EQ(reader.read("rain", start + 2 * half_hour)[0], 2.0F);
  EXPECT_TRUE(reader.read("rain", start + 50 * half_hour).empty());

  // On another grid they are refused, and alone they are no archive.
  EXPECT_EQ(failure_of([&] { index_archive(world, {folder / "0_terrain.nc"}); }).code, ExitCode::data);
  Grid other = grid();
  for (double& y : other.y) y += 0.25;
  write_constant_field("shifted.nc", "elevation", other);
  EXPECT_EQ(failure_of([&] { index_archive(world, {folder / "*.nc"}); }).code, ExitCode::data);
}

TEST_F(Archive, KeepsEitherOrderOfLatitudes) {
  const Grid north_up = grid(true);
  write(
      "north_up.nc", regular(2), [](std::size_t, Index y, Index) { return static_cast<float>(y); }, north_up);
  const ArchiveIndex index = index_archive(world, {folder / "north_up.nc"});
  EXPECT_EQ(index.grid.y, north_up.y);
  ArchiveReader reader(index, {1, 3, 2, 4}, plenty);
  EXPECT_EQ(reader.read("rain", start)[0], 1.0F);
  EXPECT_EQ(reader.latitudes(), (std::vector<float>{1.0F, 1.0F, 0.5F, 0.5F}));
  EXPECT_EQ(reader.longitudes(), (std::vector<float>{-79.0F, -78.5F, -79.0F, -78.5F}));
}

TEST_F(Archive, UnpacksAndMasksEveryKindOfMissingValue) {
  const std::string path = folder / "packed.nc";
  {
    NcWriter file(world, path);
    write_grid(file, grid());
    write_time_axis(file, 1, "time");
    write_time(file, 0, start);
    const std::vector<std::string> dims{"time", "lat", "lon"};
    const auto add = [&](const char* name, const std::vector<float>& first) {
      std::vector<float> values(static_cast<std::size_t>(whole().cells()), 1.0F);
      if (!values.empty()) std::copy(first.begin(), first.end(), values.begin());
      file.write_tile(name, {0}, {1}, whole(), values);
    };
    file.add_field("packed", NcType::i16, dims);
    file.set_numbers("packed", "_FillValue", NcType::i16, {-999});
    file.set_numbers("packed", "missing_value", NcType::i16, {-998});
    file.set_numbers("packed", "scale_factor", NcType::f64, {0.01});
    file.set_numbers("packed", "add_offset", NcType::f64, {200});
    file.set_numbers("packed", "valid_range", NcType::i16, {-500, 5000});
    add("packed", {-999, -998, -501, 5001, -500, 5000, 0});
    file.add_field("ranged", NcType::i16, dims); // the range has the unpacked type
    file.set_numbers("ranged", "scale_factor", NcType::f32, {0.5});
    file.set_numbers("ranged", "valid_max", NcType::f32, {10});
    add("ranged", {20, 21, -32767});
    file.add_field("unsigned", NcType::i16, dims);
    file.set_text("unsigned", "_Unsigned", "true");
    file.set_numbers("unsigned", "_FillValue", NcType::i16, {-1});
    add("unsigned", {-1, -2, 3});
    file.add_table("imerg", NcType::f32, dims);
    file.set_numbers("imerg", "_FillValue", NcType::f32, {static_cast<double>(-9999.900391F)});
    add("imerg", {-9999.900391F, -9999.9F, -9999.0F, 0.5F});
    file.commit();
  }
  const ArchiveIndex index = index_archive(world, {path});
  EXPECT_EQ(index.variables.size(), 4U);
  ArchiveReader reader(index, {0, ny, 0, nx}, plenty);
  const auto expect = [&](const char* name, const std::vector<float>& values) {
    const auto read = reader.read(name, start);
    for (std::size_t i = 0; i < values.size(); ++i)
      EXPECT_TRUE(std::isnan(values[i]) ? std::isnan(read[i]) : read[i] == values[i])
          << name << " " << i << ": " << read[i] << " for " << values[i];
  };
  expect("packed", {missing, missing, missing, missing, 195.0F, 250.0F, 200.0F});
  expect("ranged", {10.0F, missing, missing});
  expect("unsigned", {missing, 65534.0F, 3.0F});
  expect("imerg", {missing, missing, -9999.0F, 0.5F}); // -9999.9 and -9999.900391 are the same f32
}

TEST_F(Archive, RefusesWhatContradictsItself) {
  write_constant("a.nc", regular(4), 1);
  write_constant("b.nc", {start + 3 * half_hour, start + 4 * half_hour}, 1);
  const auto twice = failure_of([&] { index_archive(world, {folder / "a.nc", folder / "b.nc"}); });
  EXPECT_EQ(twice.code, ExitCode::data);
  EXPECT_NE(twice.text.find("2019-12-31T07:30:00Z"), std::string::npos) << twice.text;

  write_constant("near.nc", {start, start + 1800, start + 3600, start + 5400, start + 5700}, 1);
  EXPECT_EQ(failure_of([&] { index_archive(world, {folder / "near.nc"}); }).code, ExitCode::data);
  write_constant("between.nc", {start, start + 1800, start + 3600, start + 5400, start + 7200 + 900}, 1);
  EXPECT_EQ(failure_of([&] { index_archive(world, {folder / "between.nc"}); }).code, ExitCode::data);
  write_constant("jitter.nc", {start, start + 1800, start + 3600 + 120, start + 5400, start + 7200}, 1);
  EXPECT_EQ(failure_of([&] { index_archive(world, {folder / "jitter.nc"}); }).code, ExitCode::done);

  Grid shifted = grid();
  for (double& x : shifted.x) x += 0.25;
  write(
      "c.nc", {start + 10 * half_hour}, [](std::size_t, Index, Index) { return 1.0F; }, shifted);
  EXPECT_EQ(failure_of([&] {
              index_archive(world, {folder / "a.nc", folder / "c.nc"});
            }).code,
            ExitCode::data);
  EXPECT_EQ(failure_of([&] { index_archive(world, {folder / "none_*.nc"}); }).code, ExitCode::usage);
}

TEST_F(Archive, NamesADamagedFile) {
  const std::string path = write_constant("torn.nc", regular(20), 3);
  const ArchiveIndex index = index_archive(world, {path});
  world.barrier();
  const auto size = fs::file_size(path);
  for (const double share : {0.95, 0.5, 0.1, 0.0}) {
    world.barrier();
    if (world.rank() == 0)
      fs::resize_file(path, static_cast<std::uintmax_t>(static_cast<double>(size) * share));
    world.barrier();
    const auto failure = failure_of([&] {
      ArchiveReader reader(index, mine(), plenty);
      for (const auto& frame : index.frames) reader.read("rain", frame.time);
    });
    EXPECT_EQ(failure.code, ExitCode::data) << share;
    EXPECT_NE(failure.text.find("torn.nc"), std::string::npos) << failure.text;
    EXPECT_EQ(failure_of([&] { index_archive(world, {path}); }).code, ExitCode::data);
  }
}

TEST_F(Archive, TheCacheDoesNotChangeWhatIsRead) {
  const auto value = [](std::size_t t, Index y, Index x) { return static_cast<float>(100 * t + 10 * y + x); };
  write("cached.nc", regular(12), value, grid());
  const ArchiveIndex index = index_archive(world, {folder / "cached.nc"});
  const Rect all{0, ny, 0, nx};
  for (const std::size_t bytes :
       {std::size_t{0}, 3 * sizeof(float) * static_cast<std::size_t>(ny * nx), plenty}) {
    ArchiveReader reader(index, all, bytes);
    for (std::size_t k = 0; k < 60; ++k) {
      const std::size_t t = k * 7 % 12;
      EXPECT_EQ(reader.read("rain", index.frames[t].time)[11], value(t, 1, 2)) << bytes;
    }
  }
}

TEST_F(Archive, AccumulatesConstantRain) {
  write_constant("rain.nc", regular(40), 2.5F);
  const ArchiveIndex index = index_archive(world, {folder / "rain.nc"});
  ArchiveReader reader(index, mine(), plenty);
  for (float mm : accumulate(reader, {"rain", false, 6 * 3600}, start + 12 * half_hour)) EXPECT_EQ(mm, 15.0F);
  // The first window that fits ends 11 steps after the first frame when frames name the end of their
  // interval.
  const auto first = accumulate(reader, {"rain", false, 6 * 3600}, start + 9 * half_hour);
  EXPECT_TRUE(std::isnan(first[0]));
  EXPECT_EQ(failure_of([&] { accumulate(reader, {"rain", false, 1000}, start); }).code, ExitCode::usage);
}

TEST_F(Archive, OneMissingSlotOfTwelveIsScaledTwoAreNot) {
  // The same window with a frame that is absent, a NaN, and a negative rate.
  const auto value = [](std::size_t t, Index y, Index x) {
    if (t == 3 && y == 0) return missing;
    if (t == 4 && x == 1) return -9999.0F;
    return 2.5F;
  };
  write("holes.nc", regular(13), value, grid());
  write("gap.nc", regular(13, {5}), value, grid());
  const Accumulation rule{"rain", false, 6 * 3600};
  const Rect all{0, ny, 0, nx};
  ArchiveReader holes(index_archive(world, {folder / "holes.nc"}), all, plenty);
  const auto one = accumulate(holes, rule, start + 12 * half_hour);
  EXPECT_EQ(one[0], 15.0F) << "one missing slot is scaled up";
  EXPECT_TRUE(std::isnan(one[1])) << "two missing slots: no amount";
  EXPECT_EQ(one[static_cast<std::size_t>(nx) + 1], 15.0F);
  EXPECT_EQ(one[static_cast<std::size_t>(nx) + 2], 15.0F);
  ArchiveReader gap(index_archive(world, {folder / "gap.nc"}), all, plenty);
  const auto two = accumulate(gap, rule, start + 12 * half_hour);
  EXPECT_TRUE(std::isnan(two[0])) << "the gap is the second missing slot";
  EXPECT_EQ(two[static_cast<std::size_t>(nx) + 2], 15.0F);
}

TEST_F(Archive, LabelsOfTheStartAreOneStepLater) {
  const auto value = [](std::size_t t, Index y, Index x) {
    return static_cast<float>((t * t + 3 * y + x) % 17);
  };
  write("labels.nc", regular(30), value, grid());
  ArchiveReader reader(index_archive(world, {folder / "labels.nc"}), mine(), plenty);
  for (int k = 12; k < 29; ++k) {
    const auto end = accumulate(reader, {"rain", false, 6 * 3600}, start + k * half_hour);
    const auto begin = accumulate(reader, {"rain", true, 6 * 3600}, start + (k + 1) * half_hour);
    ASSERT_EQ(end, begin) << k;
  }
  double expected = 0;
  for (std::size_t t = 1; t <= 12; ++t) expected += 0.5 * static_cast<double>(value(t, mine().y0, mine().x0));
  EXPECT_EQ(accumulate(reader, {"rain", false, 6 * 3600}, start + 12 * half_hour)[0],
            static_cast<float>(expected));
}

TEST_F(Archive, ReadsTheRealOneLikeAnotherLibrary) {
  const fs::path pack = test::real_data() / "nwsa/mergir_imerg_nwsa_0p2deg_20191225_20191231.nc";
  if (!fs::exists(pack)) GTEST_SKIP() << "no real data at " << pack;
  const ArchiveIndex index = index_archive(world, {pack.string()});
  EXPECT_EQ(index.frames.size(), 334U);
  EXPECT_EQ(index.step, half_hour);
  EXPECT_EQ(index.variables, (std::vector<std::string>{"tb_mean", "tb_min", "precip"}));
  EXPECT_NEAR(index.grid.y[1] - index.grid.y[0], 0.2, 1e-9) << "f32 coordinates stand for their decimals";

  const std::string raw = folder / "oracle.f32";
  if (world.rank() == 0) {
    const std::string program =
        "import netCDF4,numpy as np;d=netCDF4.Dataset('" + pack.string() + "');o=open('" + raw +
        "','wb');[o.write(np.ma.filled(d[v][t].astype('f4'),np.nan).astype('f4').tobytes()) "
        "for v in ('tb_mean','tb_min','precip') for t in (0,100,333)]";
    if (std::system(("/usr/bin/python3 -c \"" + program + "\" 2>/dev/null").c_str()) != 0) fs::remove(raw);
  }
  world.barrier();
  if (!fs::exists(raw)) GTEST_SKIP() << "python3 with netCDF4 is not installed";
  std::ifstream file(raw, std::ios::binary);
  ArchiveReader reader(index, {0, 150, 0, 150}, plenty);
  std::vector<float> oracle(150 * 150);
  std::size_t count = 0;
  for (const char* name : {"tb_mean", "tb_min", "precip"})
    for (const std::size_t t : {0U, 100U, 333U}) {
      ASSERT_TRUE(file.read(reinterpret_cast<char*>(oracle.data()),
                            static_cast<std::streamsize>(oracle.size() * sizeof(float))));
      const auto values = reader.read(name, index.frames[t].time);
      for (std::size_t i = 0; i < oracle.size(); ++i) {
        count += std::isnan(oracle[i]);
        ASSERT_TRUE(values[i] == oracle[i] || (std::isnan(values[i]) && std::isnan(oracle[i])))
            << name << " " << t << " " << i << ": " << values[i] << " for " << oracle[i];
      }
    }
  if (world.rank() == 0) std::printf("compared 9 frames, %zu missing cells\n", count);
}

TEST_F(Archive, ForTheProgram) {
  const char* output = std::getenv("PLUVIA_TEST_OUTPUT");
  if (output == nullptr) GTEST_SKIP() << "the scripts of tests/e2e ask for a file with PLUVIA_TEST_OUTPUT";
  const auto value = [](std::size_t t, Index y, Index x) { return static_cast<float>(100 * t + 8 * y + x); };
  const std::string path = write("archive.nc", regular(6, {3, 4}), value, grid());
  if (world.rank() == 0) fs::copy_file(path, std::string(output) + "/archive.nc");
}
