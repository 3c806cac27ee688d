// Raw files of every kind that is read, written here, become the archive that their values say.
// ranks: 1 2 3
#include "../../src/apps/commands.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <numbers>

#include <gtest/gtest.h>
#include <netcdf.h>

#include "pluvia/data/archive.hpp"
#include "pluvia/data/cell_means.hpp"
#include "pluvia/data/slots.hpp"
#include "pluvia/io/netcdf.hpp"
#include "scratch.hpp"

using namespace pluvia;
using pluvia::test::failure_of;
namespace fs = std::filesystem;

namespace {

const float missing = std::numeric_limits<float>::quiet_NaN();
constexpr Time noon = 1577448000; // 2019-12-27T12:00Z
constexpr Time half_hour = 1800;

/// A raw file as its producer would write it.
struct RawSpec {
  std::string variable = "Tb", units = "K", group;
  std::vector<std::string> dimensions{"time", "lat", "lon"};
  std::string time_units = "seconds since 1970-01-01 00:00:00", calendar = "standard";
  std::vector<double> times;
  std::vector<double> lat, lon;
  float fill = -9999.0F;
  std::function<float(std::size_t t, std::size_t y, std::size_t x)> value;
};

void require_success(int status) {
  if (status != NC_NOERR) throw std::runtime_error(nc_strerror(status));
}

void write_raw(const std::string& path, const RawSpec& raw) {
  int file = 0, group = 0;
  require_success(nc_create(path.c_str(), NC_NETCDF4 | NC_CLOBBER, &file));
  group = file;
  if (!raw.group.empty()) require_success(nc_def_grp(file, raw.group.c_str(), &group));
  const auto size_of = [&](const std::string& d) {
    return d == "time" ? raw.times.size() : d == "lat" ? raw.lat.size() : raw.lon.size();
  };
  std::vector<int> dimensions;
  std::vector<std::size_t> extents;
  for (const std::string& d : raw.dimensions) {
    extents.push_back(size_of(d));
    require_success(nc_def_dim(group, d.c_str(), extents.back(), &dimensions.emplace_back()));
  }
  std::vector<int> axes;
  for (std::size_t d = 0; d < 3; ++d)
    require_success(nc_def_var(group, raw.dimensions[d].c_str(), d == 0 ? NC_DOUBLE : NC_FLOAT, 1,
                               &dimensions[d], &axes.emplace_back()));
  require_success(nc_put_att_text(group, axes[0], "units", raw.time_units.size(), raw.time_units.data()));
  require_success(nc_put_att_text(group, axes[0], "calendar", raw.calendar.size(), raw.calendar.data()));
  int id = 0;
  require_success(nc_def_var(group, raw.variable.c_str(), NC_FLOAT, 3, dimensions.data(), &id));
  require_success(nc_def_var_fill(group, id, NC_FILL, &raw.fill));
  require_success(nc_def_var_deflate(group, id, 0, 1, 1));
  require_success(nc_put_att_text(group, id, "units", raw.units.size(), raw.units.data()));
  require_success(nc_enddef(file));
  for (std::size_t d = 0; d < 3; ++d) {
    const auto& axis = raw.dimensions[d] == "time"  ? raw.times
                       : raw.dimensions[d] == "lat" ? raw.lat
                                                    : raw.lon;
    require_success(nc_put_var_double(group, axes[d], axis.data()));
  }
  std::vector<float> values;
  std::array<std::size_t, 3> i{};
  for (i[0] = 0; i[0] < extents[0]; ++i[0])
    for (i[1] = 0; i[1] < extents[1]; ++i[1])
      for (i[2] = 0; i[2] < extents[2]; ++i[2]) {
        const bool rows_first = raw.dimensions[1] == "lat";
        const float v = raw.value(i[0], rows_first ? i[1] : i[2], rows_first ? i[2] : i[1]);
        values.push_back(std::isnan(v) ? raw.fill : v);
      }
  require_success(nc_put_var_float(group, id, values.data()));
  require_success(nc_close(file));
}

std::vector<double> axis(double first, double spacing, int n) {
  std::vector<double> out;
  for (int i = 0; i < n; ++i) out.push_back(first + spacing * i);
  return out;
}

/// Images of 8 x 12 pixels of half a degree over 4 x 6 degrees, two in an hour.
RawSpec image(Time hour, std::function<float(std::size_t, std::size_t, std::size_t)> value) {
  RawSpec raw;
  raw.times = {static_cast<double>(hour), static_cast<double>(hour + half_hour)};
  raw.lat = axis(10.25, 0.5, 8), raw.lon = axis(-79.75, 0.5, 12);
  raw.value = std::move(value);
  return raw;
}

/// Rain of the half hour from `start` on, 4 x 6 pixels of one degree, stored column by column.
RawSpec rain(Time start, std::function<float(std::size_t, std::size_t, std::size_t)> value) {
  RawSpec raw;
  raw.variable = "precipitationCal", raw.units = "mm/hr", raw.dimensions = {"time", "lon", "lat"};
  raw.fill = -9999.9F;
  raw.times = {static_cast<double>(start)};
  raw.lat = axis(10.5, 1, 4), raw.lon = axis(-79.5, 1, 6);
  raw.value = std::move(value);
  return raw;
}

float some_kelvin(std::size_t t, std::size_t y, std::size_t x) {
  return static_cast<float>(200 + 40 * t + (7 * y + 11 * x) % 60);
}
float some_rain(std::size_t, std::size_t y, std::size_t x) {
  return static_cast<float>((3 * y + 5 * x) % 16) / 4;
}

class Prepare : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  test::ScratchFolder folder{world};
  Settings settings;

  Prepare() {
    PrepareSettings& s = settings.prepare;
    s.inputs = {folder / "raw_*"};
    s.output = folder / "archive.nc";
    s.south = 10, s.north = 14, s.west = -80, s.east = -74, s.cell_degrees = 1;
  }
  void write(const std::string& name, const RawSpec& raw) const {
    if (world.rank() == 0) write_raw(folder / name, raw);
    world.barrier();
  }
  /// Two hours of images and rain.
  void write_day() const {
    for (int h = 0; h < 2; ++h) write("raw_image" + std::to_string(h), image(noon + h * 3600, some_kelvin));
    for (int k = 0; k < 4; ++k)
      write("raw_rain" + std::to_string(k),
            rain(noon + k * half_hour, [k](std::size_t t, std::size_t y, std::size_t x) {
              return some_rain(t, y + static_cast<std::size_t>(k), x);
            }));
  }
  ExitCode prepare() const { return prepare(world); }
  ExitCode prepare(const Communicator& comm) const {
    const ExitCode code = commands::prepare(comm, settings, Log(Log::Voice::silent));
    world.barrier();
    return code;
  }
  NcReader archive() const { return NcReader(settings.prepare.output); }
  test::Failure failure() const {
    const test::Failure out =
        failure_of([&] { commands::prepare(world, settings, Log(Log::Voice::silent)); });
    world.barrier();
    EXPECT_FALSE(fs::exists(settings.prepare.output + ".part"));
    world.barrier();
    return out;
  }
};

/// The stored bits of every variable, by name.
std::map<std::string, std::vector<std::uint64_t>> bits(const std::string& path) {
  const NcReader file(path);
  std::map<std::string, std::vector<std::uint64_t>> out;
  for (const NcVariable& variable : file.variables())
    for (const double v : file.values(variable.name))
      out[variable.name].push_back(std::bit_cast<std::uint64_t>(v));
  return out;
}

// ---- Cells ------------------------------------------------------------------------------------------------

constexpr double degree = std::numbers::pi / 180;

TEST(CellMeans, AreMeansByAreaAndColdestPixels) {
  const CellGrid grid{50, 0, 1, 1, 2};
  const Geolocation where{{0, 2, 0, 4}, {50.25, 50.75}, {0.25, 0.75, 1.25, 1.75}, 0.5, 0.5};
  const std::vector<float> pixels{200, 210, 300, 300, 220, 250, 300, 301};
  const CellMeans cells = gather_in_cells(grid, where, Quantity::brightness_temperature, pixels);
  const double south = std::cos(50.25 * degree), north = std::cos(50.75 * degree);
  EXPECT_FLOAT_EQ(cells.mean[0], static_cast<float>((410 * south + 470 * north) / (2 * south + 2 * north)));
  EXPECT_FLOAT_EQ(cells.mean[1], static_cast<float>((600 * south + 601 * north) / (2 * south + 2 * north)));
  EXPECT_EQ(cells.least, (std::vector<float>{200, 300}));
}

TEST(CellMeans, NeedHalfOfTheirPixelsAndPossibleValues) {
  const CellGrid grid{0, 0, 1, 1, 2};
  const Geolocation where{{0, 2, 0, 4}, {0.25, 0.75}, {0.25, 0.75, 1.25, 1.75}, 0.5, 0.5};
  const CellMeans cells =
      gather_in_cells(grid, where, Quantity::brightness_temperature,
                      std::vector<float>{200, 210, 300, 159, 341, missing, missing, 340.5F});
  EXPECT_FLOAT_EQ(cells.mean[0], 205) << "two of four are enough";
  EXPECT_TRUE(std::isnan(cells.mean[1]) && std::isnan(cells.least[1])) << "one of four is not";
  EXPECT_EQ(cells.impossible, 3U);
  const CellMeans wet = gather_in_cells(grid, where, Quantity::precipitation_rate,
                                        std::vector<float>{0, 300, -0.01F, 300.5F, 0, 300, 4, 8});
  EXPECT_FLOAT_EQ(wet.mean[0], 150);
  EXPECT_FLOAT_EQ(wet.mean[1], 6);
  EXPECT_TRUE(wet.least.empty());
}

TEST(CellMeans, ShareRainOutByOverlap) {
  // Pixels of one degree, cells of one degree a quarter further east: on the equator areas are equal.
  const Geolocation where{{0, 1, 0, 3}, {0.0}, {0.5, 1.5, 2.5}, 1, 1};
  const std::vector<float> pixels{4, 8, missing};
  const CellMeans shifted =
      gather_in_cells({-0.5, 0.25, 1, 1, 2}, where, Quantity::precipitation_rate, pixels);
  EXPECT_FLOAT_EQ(shifted.mean[0], 0.75F * 4 + 0.25F * 8);
  EXPECT_FLOAT_EQ(shifted.mean[1], 8) << "a quarter is missing and left out";
  const CellMeans fine = gather_in_cells({-0.5, 0, 0.5, 2, 6}, where, Quantity::precipitation_rate, pixels);
  for (const std::size_t row : {0U, 6U}) {
    EXPECT_EQ(fine.mean[row], 4);
    EXPECT_EQ(fine.mean[row + 3], 8);
    EXPECT_TRUE(std::isnan(fine.mean[row + 4]));
  }
  const CellMeans coarse = gather_in_cells({-0.5, 0, 2, 1, 1}, where, Quantity::precipitation_rate, pixels);
  EXPECT_FLOAT_EQ(coarse.mean[0], 6);
}

TEST(CellMeans, CloseAroundTheEarth) {
  // One row of 72 pixels of 5 degrees, centred on multiples of 5: the first lies half west of the seam.
  Geolocation where{{0, 1, 0, 72}, {0.0}, {}, 5, 5};
  std::vector<float> pixels;
  for (int x = 0; x < 72; ++x) where.longitudes.push_back(5 * x), pixels.push_back(static_cast<float>(x));
  for (const double west : {-180.0, 0.0}) {
    const CellGrid grid{-2.5, west, 5, 1, 72};
    const CellMeans cells = gather_in_cells(grid, where, Quantity::precipitation_rate, pixels);
    for (int x = 0; x < 72; ++x) {
      const int first = (x + static_cast<int>(west < 0 ? 36 : 0)) % 72, second = (first + 1) % 72;
      EXPECT_FLOAT_EQ(cells.mean[static_cast<std::size_t>(x)], 0.5F * static_cast<float>(first + second))
          << x;
    }
  }
}

TEST(CellMeans, TakePixelsThatLieAnywhere) {
  // The pixels of a satellite's own view come with a place each, or none when they look past the Earth.
  const double past = std::numeric_limits<double>::quiet_NaN();
  const Geolocation where{{0, 2, 0, 2}, {0.1, 0.9, 0.5, past}, {0.5, 1.5, 359.0, past}, 0.5, 0.5};
  const CellMeans cells = gather_in_cells({0, -2, 1, 1, 4}, where, Quantity::brightness_temperature,
                                          std::vector<float>{200, 210, 220, 230});
  EXPECT_TRUE(std::isnan(cells.mean[0]));
  EXPECT_EQ(cells.mean[1], 220);
  EXPECT_EQ(cells.mean[2], 200);
  EXPECT_EQ(cells.mean[3], 210);
}

// ---- Slots ------------------------------------------------------------------------------------------------

FoundFrame image_at(Time t, const std::string& file = "a") {
  return {file, {"tb", Quantity::brightness_temperature, t, t, 0}};
}
FoundFrame rain_over(Time begin, Time end, const std::string& file = "r") {
  return {file, {"precip", Quantity::precipitation_rate, begin, end, 0}};
}
std::int64_t skipped(const Skips& skips, const std::string& words) {
  std::int64_t out = 0;
  for (const auto& [reason, skip] : skips.by_reason())
    if (reason.find(words) != std::string::npos) out += skip.count;
  return out;
}

TEST(Slots, TakeTheNearestFrameWithinTheTolerance) {
  Skips skips;
  const auto slots =
      assign_slots({image_at(noon + 300, "late"), image_at(noon - 240, "near"), image_at(noon + 1800 + 301),
                    image_at(noon + 3600, "b"), image_at(noon + 3600, "a")},
                   {}, {}, skips);
  ASSERT_EQ(slots.size(), 2U);
  EXPECT_EQ(slots.at(noon).at("tb")[0].file, "near");
  EXPECT_EQ(slots.at(noon + 3600).at("tb")[0].file, "a");
  EXPECT_EQ(skipped(skips, "more than 5 minutes"), 1);
  EXPECT_EQ(skipped(skips, "another frame"), 2);
}

TEST(Slots, PutRainAtTheEndOfItsIntervalAndFillLongerOnes) {
  Skips skips;
  const std::vector<FoundFrame> frames{rain_over(noon + 1800, noon + 3600), rain_over(noon, noon + 1800),
                                       rain_over(noon + 3600, noon + 5400)};
  const auto half_hours = assign_slots(frames, {}, {}, skips);
  ASSERT_EQ(half_hours.size(), 3U);
  EXPECT_EQ(half_hours.at(noon + 1800).at("precip")[0].frame.begin, noon);
  EXPECT_TRUE(skips.by_reason().empty());
  const auto hours = assign_slots(frames, {.step = 3600}, {}, skips);
  ASSERT_EQ(hours.size(), 1U) << "half of the second hour is no hour";
  ASSERT_EQ(hours.at(noon + 3600).at("precip").size(), 2U);
  EXPECT_EQ(hours.at(noon + 3600).at("precip")[0].frame.begin, noon);
  EXPECT_EQ(skipped(skips, "not complete"), 1);
  EXPECT_TRUE(assign_slots(frames, {.step = 900, .tolerance = 60}, {}, skips).empty());
  EXPECT_EQ(skipped(skips, "do not divide"), 3);
}

TEST(Slots, KeepToTheirRangeAndLeaveWhatIsThere) {
  Skips skips;
  SlotRule rule;
  rule.from = noon, rule.to = noon + 3600;
  const auto slots = assign_slots({image_at(noon - 1800), image_at(noon), image_at(noon + 1800),
                                   image_at(noon + 3600), rain_over(noon - 1800, noon)},
                                  rule, {{noon, {"tb"}}}, skips);
  ASSERT_EQ(slots.size(), 2U);
  EXPECT_EQ(slots.at(noon).size(), 1U);
  EXPECT_TRUE(slots.at(noon).contains("precip"));
  EXPECT_TRUE(slots.at(noon + 1800).contains("tb"));
  EXPECT_EQ(skipped(skips, "outside"), 2);
  EXPECT_EQ(skipped(skips, "already"), 1);
}

} // namespace

// ---- The program ------------------------------------------------------------------------------------------

TEST_F(Prepare, WritesMeansAtTheirTimes) {
  write_day();
  ASSERT_EQ(prepare(), ExitCode::done);
  const ArchiveIndex index = index_archive(world, {settings.prepare.output});
  EXPECT_EQ(index.variables, (std::vector<std::string>{"precip", "tb_mean", "tb_min"}));
  EXPECT_EQ(index.step, half_hour);
  ASSERT_EQ(index.frames.size(), 5U) << "images at 12:00 to 13:30, rain at 12:30 to 14:00";
  EXPECT_EQ(index.frames.front().time, noon);
  EXPECT_EQ(index.grid.y, axis(10.5, 1, 4));
  EXPECT_EQ(index.grid.x, axis(-79.5, 1, 6));

  ArchiveReader reader(index, {0, 4, 0, 6}, 0);
  EXPECT_TRUE(std::isnan(reader.read("precip", noon)[0]));
  EXPECT_TRUE(std::isnan(reader.read("tb_mean", noon + 4 * half_hour)[0]));
  for (std::size_t k = 0; k < 4; ++k)
    for (std::size_t y = 0; y < 4; ++y)
      for (std::size_t x = 0; x < 6; ++x) {
        const std::size_t cell = 6 * y + x;
        const Time start = noon + static_cast<Time>(k) * half_hour;
        EXPECT_NEAR(reader.read("precip", start + half_hour)[cell], some_rain(0, y + k, x), 1e-5)
            << "rain stands at the end of its interval";
        double sum = 0, area = 0;
        float least = 1000;
        for (std::size_t dy = 0; dy < 2; ++dy)
          for (std::size_t dx = 0; dx < 2; ++dx) {
            const float v = some_kelvin(k % 2, 2 * y + dy, 2 * x + dx);
            const double weight = std::cos((10.25 + 0.5 * static_cast<double>(2 * y + dy)) * degree);
            sum += weight * static_cast<double>(v), area += weight, least = std::min(least, v);
          }
        EXPECT_NEAR(reader.read("tb_mean", start)[cell], sum / area, 0.00501);
        EXPECT_EQ(reader.read("tb_min", start)[cell], least);
      }
  const NcReader file = archive();
  const std::vector<double> bounds = file.values("time_bnds");
  EXPECT_EQ(bounds[2], static_cast<double>(noon));
  EXPECT_EQ(bounds[3], static_cast<double>(noon + half_hour));
  EXPECT_TRUE(std::isnan(file.values("precip_time")[0]));
  EXPECT_EQ(file.values("precip_time")[1], static_cast<double>(noon + half_hour));
}

TEST_F(Prepare, IsTheSameOnEveryRankCount) {
  write_day();
  prepare();
  const auto together = bits(settings.prepare.output);
  const Communicator alone = world.split(world.rank(), 0);
  settings.prepare.output = folder / ("alone" + std::to_string(world.rank()) + ".nc");
  prepare(alone);
  EXPECT_EQ(bits(settings.prepare.output), together);
}

TEST_F(Prepare, AppendsAsIfInOneGo) {
  write_day();
  prepare();
  const auto one_go = bits(settings.prepare.output);
  settings.prepare.output = folder / "grown.nc";
  // The later hour first, then rain, so that times are inserted before others and channels into times.
  for (const std::string inputs : {"raw_image1", "raw_rain[02]", "raw_*"}) {
    settings.prepare.inputs = {folder / inputs};
    ASSERT_EQ(prepare(), ExitCode::done);
  }
  EXPECT_EQ(bits(settings.prepare.output), one_go);

  const auto written = fs::last_write_time(settings.prepare.output);
  world.barrier();
  ASSERT_EQ(prepare(), ExitCode::done);
  EXPECT_EQ(fs::last_write_time(settings.prepare.output), written) << "nothing new, nothing written";
}

TEST_F(Prepare, RefusesAnArchiveOfAnotherKind) {
  write_day();
  prepare();
  settings.prepare.south = 11;
  EXPECT_EQ(failure().code, ExitCode::usage);
  settings.prepare.south = 10;
  settings.prepare.frame_minutes = 60;
  EXPECT_EQ(failure().code, ExitCode::usage);
  settings.prepare.frame_minutes = 30;
  settings.prepare.output = folder / "raw_image0";
  const auto foreign = failure();
  EXPECT_EQ(foreign.code, ExitCode::usage);
  EXPECT_NE(foreign.text.find("did not write it"), std::string::npos) << foreign.text;
}

TEST_F(Prepare, AveragesHalfHoursToHours) {
  write_day();
  settings.prepare.frame_minutes = 60;
  ASSERT_EQ(prepare(), ExitCode::done);
  const ArchiveIndex index = index_archive(world, {settings.prepare.output});
  ASSERT_EQ(index.frames.size(), 3U);
  ArchiveReader reader(index, {0, 4, 0, 6}, 0);
  for (std::size_t cell = 0; cell < 24; ++cell) {
    const std::size_t y = cell / 6, x = cell % 6;
    EXPECT_NEAR(reader.read("precip", noon + 3600)[cell],
                0.5F * (some_rain(0, y, x) + some_rain(0, y + 1, x)), 0.00501);
    EXPECT_NEAR(reader.read("precip", noon + 7200)[cell],
                0.5F * (some_rain(0, y + 2, x) + some_rain(0, y + 3, x)), 0.00501);
  }
}

TEST_F(Prepare, UnderstandsEpochsGroupsAndTurns) {
  // As V07 has it: another name, a group, the GPS epoch and a calendar of the wrong name.
  RawSpec later = rain(0, some_rain);
  later.variable = "precipitation", later.group = "Grid", later.calendar = "julian";
  later.time_units = "seconds since 1980-01-06 00:00:00 UTC";
  later.times = {static_cast<double>(noon - 315964800)};
  write("raw_3B-HHR.MS.MRG.3IMERG.20191227-S120000-E122959.0720.V07B.HDF5", later);
  // An image in days, from north to south, with longitudes from 0 to 360.
  RawSpec other = image(0, some_kelvin);
  other.time_units = "days since 1970-01-01 00:00:00";
  other.times = {static_cast<double>(noon) / 86400, static_cast<double>(noon + half_hour) / 86400};
  std::reverse(other.lat.begin(), other.lat.end());
  for (double& x : other.lon) x += 360;
  write("raw_merg_2019122712_4km-pixel.nc4", other);
  ASSERT_EQ(prepare(), ExitCode::done);
  const ArchiveIndex index = index_archive(world, {settings.prepare.output});
  ASSERT_EQ(index.frames.size(), 2U);
  EXPECT_EQ(index.frames.front().time, noon);
  ArchiveReader reader(index, {0, 4, 0, 6}, 0);
  EXPECT_NEAR(reader.read("precip", noon + half_hour)[7], some_rain(0, 1, 1), 1e-5);
  const float least = std::min(std::min(some_kelvin(0, 4, 2), some_kelvin(0, 4, 3)),
                               std::min(some_kelvin(0, 5, 2), some_kelvin(0, 5, 3)));
  EXPECT_EQ(reader.read("tb_min", noon)[7], least) << "row 1 from the south is rows 4 and 5 from the north";
}

TEST_F(Prepare, SkipsWhatContradictsItsName) {
  write("raw_merg_2019122713_4km-pixel.nc4", image(noon, some_kelvin));                  // an hour early
  write("raw_3B-HHR.MS.MRG.3IMERG.20191228-S120000-E122959.nc4", rain(noon, some_rain)); // a day early
  write("raw_3B-DAY.MS.MRG.3IMERG.20191227-S000000-E235959.nc4", rain(noon, some_rain));
  RawSpec depth = rain(noon, some_rain);
  depth.units = "mm";
  write("raw_depth", depth);
  EXPECT_EQ(failure().code, ExitCode::data);
  write("raw_good", rain(noon, some_rain));
  ASSERT_EQ(prepare(), ExitCode::done);
  EXPECT_EQ(archive().values("time"), std::vector<double>{static_cast<double>(noon + half_hour)});
}

TEST_F(Prepare, KeepsMissingPixelsAndFramesMissing) {
  RawSpec raw = image(noon, [](std::size_t t, std::size_t y, std::size_t x) {
    if (t == 1) return missing;                           // a frame without a pixel
    if (y < 2 && x < 2) return x + y > 0 ? missing : 200; // one of four pixels
    if (y < 2 && x < 4) return y == 0 ? missing : 210;    // two of four
    return 230.0F;
  });
  raw.fill = 230.5F; // no special number: only the attribute says that it is missing
  write("raw_image", raw);
  RawSpec wet = rain(noon - half_hour, [](std::size_t, std::size_t y, std::size_t x) {
    return y == 0 && x == 0 ? missing : y == 0 && x == 1 ? 301.0F : 1.0F;
  });
  write("raw_rain", wet);
  ASSERT_EQ(prepare(), ExitCode::done);
  const NcReader file = archive();
  EXPECT_EQ(file.values("time"), std::vector<double>{static_cast<double>(noon)});
  const std::vector<double> tb = file.values("tb_mean"), least = file.values("tb_min"),
                            precip = file.values("precip");
  EXPECT_TRUE(std::isnan(tb[0]) && std::isnan(least[0]));
  EXPECT_NEAR(tb[1], 210, 1e-9);
  EXPECT_NEAR(tb[2], 230, 1e-9);
  EXPECT_TRUE(std::isnan(precip[0]) && std::isnan(precip[1]));
  EXPECT_EQ(precip[2], 1);
}

TEST_F(Prepare, TellsCoveredCellsAtTheEdgeOfAFile) {
  // The image reaches a pixel beyond the grid in the south and west; in the north it covers two fifths of the
  // last row of cells, in the east three fifths of the last column.
  RawSpec raw = image(noon, [](std::size_t, std::size_t, std::size_t) { return 250.0F; });
  raw.lat = axis(9.9, 0.2, 18), raw.lon = axis(-80.1, 0.2, 29); // to 13.4 north, 74.4 west
  write("raw_image", raw);
  // Rain on a grid one pixel larger and half a pixel off.
  RawSpec wet = rain(noon - half_hour, [](std::size_t, std::size_t, std::size_t) { return 2.0F; });
  wet.lat = axis(10, 1, 4), wet.lon = axis(-80, 1, 7);
  write("raw_rain", wet);
  ASSERT_EQ(prepare(), ExitCode::done);
  const NcReader file = archive();
  const std::vector<double> tb = file.values("tb_mean"), precip = file.values("precip");
  for (std::size_t y = 0; y < 4; ++y)
    for (std::size_t x = 0; x < 6; ++x) {
      EXPECT_EQ(std::isnan(tb[6 * y + x]), y == 3) << y << " " << x;
      EXPECT_EQ(precip[6 * y + x], 2) << "half of the northern row is enough";
    }
}

TEST_F(Prepare, GoesAcrossTheDateLine) {
  RawSpec raw = image(noon, [](std::size_t, std::size_t y, std::size_t x) {
    // One pixel at the seam is missing: if its cell lost more, or counted some twice, it would be too.
    return x == 719 && y % 2 == 0 ? missing : static_cast<float>(200 + x % 100);
  });
  raw.lon = axis(-179.75, 0.5, 720);
  write("raw_image", raw);
  settings.prepare.west = 178, settings.prepare.east = 182;
  ASSERT_EQ(prepare(), ExitCode::done);
  const NcReader file = archive();
  EXPECT_EQ(file.values("lon"), axis(178.5, 1, 4));
  const std::vector<double> tb = file.values("tb_min");
  for (const std::size_t y : {0U, 3U}) {
    EXPECT_EQ(tb[4 * y], 216) << "columns 716 and 717";
    EXPECT_EQ(tb[4 * y + 1], 218);
    EXPECT_EQ(tb[4 * y + 2], 200);
    EXPECT_EQ(tb[4 * y + 3], 202);
  }
}

TEST_F(Prepare, SkipsDamagedAndForeignFilesUnlessNothingIsLeft) {
  write("raw_image", image(noon, some_kelvin));
  write("raw_torn", image(noon + 3600, some_kelvin));
  write("raw_spoilt", image(noon + 7200, some_kelvin));
  if (world.rank() == 0) {
    fs::resize_file(folder / "raw_torn", fs::file_size(folder / "raw_torn") / 2);
    // A file whose header is whole and whose compressed values are not.
    std::fstream spoilt(folder / "raw_spoilt", std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(spoilt)), {});
    const std::size_t stream = bytes.find("\x78\x01"); // how zlib begins
    if (stream == std::string::npos) throw std::runtime_error("no compressed values");
    spoilt.clear();
    spoilt.seekp(static_cast<std::streamoff>(stream + 2));
    spoilt.write(std::string(40, '\xff').data(), 40);
    std::ofstream(folder / "raw_text") << "no satellite image\n";
    std::ofstream empty(folder / "raw_empty");
  }
  world.barrier();
  ASSERT_EQ(prepare(), ExitCode::done);
  EXPECT_EQ(archive().values("time"),
            (std::vector<double>{static_cast<double>(noon), static_cast<double>(noon + half_hour)}));

  settings.prepare.output = folder / "nothing.nc";
  for (const std::string left : {"raw_torn", "raw_spoilt", "raw_text", "raw_empty"}) {
    settings.prepare.inputs = {folder / left};
    const auto none = failure();
    EXPECT_EQ(none.code, ExitCode::data) << left;
    EXPECT_NE(none.text.find(left), std::string::npos) << none.text;
    EXPECT_FALSE(fs::exists(settings.prepare.output));
  }
}

TEST_F(Prepare, RefusesBadInput) {
  write_day();
  PrepareSettings& s = settings.prepare;
  const PrepareSettings good = s;
  const auto refused = [&](ExitCode code, const std::string& words) {
    const auto found = failure();
    EXPECT_EQ(found.code, code) << found.text;
    EXPECT_NE(found.text.find(words), std::string::npos) << found.text;
    s = good;
  };
  s.inputs = {folder / "none_*"};
  refused(ExitCode::usage, "No file matches");
  s.inputs = {};
  refused(ExitCode::usage, "prepare.inputs names no file");
  s.north = s.south;
  refused(ExitCode::usage, "empty");
  s.cell_degrees = 0.7;
  refused(ExitCode::usage, "whole number");
  s.west = 20, s.east = 26;
  refused(ExitCode::data, "outside the grid");
  s.cell_degrees = 0.25, s.inputs = {folder / "raw_image*"};
  refused(ExitCode::data, "larger than a cell");
  s.range.from = "2020-01-01";
  refused(ExitCode::data, "outside prepare.from");
}
