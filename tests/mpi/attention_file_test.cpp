// Which cells hold a point, on every kind of grid, and the coordinates of what was looked at.
#include "pluvia/forecast/attention_file.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/forecast/point_cells.hpp"
#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "scratch.hpp"

namespace pluvia {
namespace {

constexpr Index ny = 9, nx = 12;

class AttentionFile : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  test::ScratchFolder folder{world};

  Rect tile() const { return choose().tile(world.rank(), 0); }
  Tiling choose() const {
    const GridShape shape = choose_grid_shape(ny, nx, 2, world.size());
    return {ny, nx, 2, shape.rows, shape.cols};
  }

  ArchiveIndex archive(const Grid& grid, const std::vector<float>& lat = {},
                       const std::vector<float>& lon = {}) {
    const std::string path = folder / "archive.nc";
    {
      const Rect whole = world.rank() == 0 ? Rect{0, ny, 0, nx} : Rect{};
      const auto mine = [&](const std::vector<float>& values) {
        return world.rank() == 0 ? values : std::vector<float>{};
      };
      NcWriter file(world, path);
      write_grid(file, grid);
      write_time_axis(file, NcWriter::unlimited, "time");
      file.add_field("rain", NcType::f32, {"time", grid.y_name, grid.x_name});
      set_grid_attributes(file, grid, "rain");
      if (!lat.empty()) write_latitude_longitude(file, grid, whole, mine(lat), mine(lon));
      for (std::size_t t = 0; t < 2; ++t) {
        write_time(file, t, static_cast<Time>(t) * 3600);
        file.write_tile("rain", {t}, {1}, whole,
                        mine(std::vector<float>(static_cast<std::size_t>(ny * nx), 0.0F)));
      }
      file.commit();
    }
    return index_archive(world, {path});
  }

  /// Every cell is found from its centre and from near its corners.
  template <class Place> void expect_found(const ArchiveIndex& index, Place place) {
    std::vector<LatLon> points;
    for (double dy : {0.0, -0.45, 0.45})
      for (double dx : {0.0, -0.45, 0.45})
        for (Index y = 0; y < ny; ++y)
          for (Index x = 0; x < nx; ++x)
            points.push_back(place(static_cast<double>(y) + dy, static_cast<double>(x) + dx));
    const auto cells = cells_holding(world, index, tile(), points);
    ASSERT_EQ(cells.size(), points.size());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const auto cell = static_cast<Index>(i) % (ny * nx);
      wrong += cells[i].y != cell / nx || cells[i].x != cell % nx;
    }
    EXPECT_EQ(wrong, 0);
  }
  template <class Place> void expect_refused(const ArchiveIndex& index, Place place, double y, double x) {
    const LatLon point = place(y, x);
    const auto failure = test::failure_of([&] { cells_holding(world, index, tile(), {place(4, 4), point}); });
    EXPECT_EQ(failure.code, ExitCode::usage) << y << ", " << x;
    EXPECT_NE(failure.text.find("outside the archive's grid"), std::string::npos) << failure.text;
  }
};

TEST_F(AttentionFile, FindsCellsOfALatitudeLongitudeGrid) {
  Grid grid; // north to south, as some archives are
  for (Index i = 0; i < ny; ++i) grid.y.push_back(60 - 2.0 * static_cast<double>(i));
  for (Index i = 0; i < nx; ++i) grid.x.push_back(170 + 1.5 * static_cast<double>(i));
  const ArchiveIndex index = archive(grid);
  const auto place = [](double y, double x) {
    return LatLon{60 - 2 * y, std::remainder(170 + 1.5 * x, 360)};
  };
  expect_found(index, place);
  for (const auto& [y, x] : std::vector<std::pair<double, double>>{
           {-0.55, 3}, {8.55, 3}, {4, -0.55}, {4, 11.55}, {-0.55, -0.55}, {4, 100}})
    expect_refused(index, place, y, x);
}

TEST_F(AttentionFile, FindsCellsOfAProjectedGrid) {
  // A plane turned by 30 degrees, 0.5 degrees a cell.
  const auto place = [](double y, double x) {
    const double east = 0.5 * (x * std::cos(0.5) - y * std::sin(0.5)),
                 north = 0.5 * (x * std::sin(0.5) + y * std::cos(0.5));
    return LatLon{5 + north, -70 + east};
  };
  Grid grid;
  grid.kind = Grid::Kind::projected;
  grid.y_name = "y", grid.x_name = "x", grid.y_units = grid.x_units = "m";
  grid.mapping_texts = {{"grid_mapping_name", "polar_stereographic"}};
  std::vector<float> lat, lon;
  for (Index y = 0; y < ny; ++y) grid.y.push_back(5000.0 * static_cast<double>(y));
  for (Index x = 0; x < nx; ++x) grid.x.push_back(5000.0 * static_cast<double>(x));
  for (Index y = 0; y < ny; ++y)
    for (Index x = 0; x < nx; ++x) {
      const LatLon at = place(static_cast<double>(y), static_cast<double>(x));
      lat.push_back(static_cast<float>(at.latitude)), lon.push_back(static_cast<float>(at.longitude));
    }
  const ArchiveIndex index = archive(grid, lat, lon);
  ASSERT_EQ(index.grid.kind, Grid::Kind::projected);
  expect_found(index, place);
  for (const auto& [y, x] : std::vector<std::pair<double, double>>{
           {-0.6, 3}, {8.6, 3}, {4, -0.6}, {4, 11.6}, {-0.6, -0.6}, {40, 40}})
    expect_refused(index, place, y, x);
}

TEST_F(AttentionFile, WindowsGoOnBeyondAClosedAxisAndEndAtOthers) {
  ProductHeader header;
  for (Index i = 0; i < ny; ++i) header.grid.y.push_back(4.0 * static_cast<double>(i));
  for (Index i = 0; i < nx; ++i) header.grid.x.push_back(30.0 * static_cast<double>(i));
  header.leads_hours = {6, 12}, header.thresholds_mm = {1};
  header.history = 2;
  const std::vector<LatLon> points{{0, 0}, {16, 180}};
  // Level 1 has 5 x 6 cells; its last row is one of level 0 high. Windows of 3 wrapped columns, of at most 2
  // rows.
  AttentionProbe probe{.cells = {{0, 0}, {8, 6}}, .maps = {}, .gates = {}};
  AttentionMap map{.kind = AttentionKind::joint,
                   .level = 1,
                   .rows = {{0, 2}, {4, 5}},
                   .columns = {{-1, 2}, {2, 5}},
                   .weights = {}};
  map.queries = 1, map.heads = 2, map.frames = 2, map.height = 2, map.width = 3;
  for (int i = 0; i < 2 * 2 * 2 * 2 * 3; ++i) map.weights.push_back(static_cast<float>(i));
  probe.maps.push_back(map);
  const std::string path = folder / attention_name(1577772000, 0, 1);
  EXPECT_EQ(path, folder / "pluvia_attention_i20191231T0600Z.nc");
  EXPECT_EQ(attention_name(1577772000, 1, 2), "pluvia_attention_i20191231T0600Z_member2.nc");
  write_attention(world, path, header, 1577772000, {points, probe, 1, {0.1F, 0.2F, 0.3F, 0.4F}});

  const NcReader file(path);
  EXPECT_EQ(file.values("frame"), (std::vector<double>{1577768400, 1577772000}));
  EXPECT_EQ(file.values("joint_lon_level0"), (std::vector<double>{-45, 15, 75, 135, 195, 255}));
  const std::vector<double> lat = file.values("joint_lat_level0"),
                            edges = file.values("joint_lat_level0_bnds");
  ASSERT_EQ(lat.size(), 4U);
  EXPECT_EQ(std::vector<double>(lat.begin(), lat.begin() + 3), (std::vector<double>{2, 10, 32}));
  EXPECT_TRUE(std::isnan(lat[3]));
  EXPECT_EQ(std::vector<double>(edges.begin(), edges.begin() + 6),
            (std::vector<double>{-2, 6, 6, 14, 30, 34}));
  const std::vector<double> by_head = file.values("joint_weight_by_head_level0"),
                            mean = file.values("joint_weight_level0");
  ASSERT_EQ(by_head.size(), map.weights.size());
  ASSERT_EQ(mean.size(), by_head.size() / 2);
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(mean[i], (by_head[i] + by_head[12 + i]) / 2);
  for (std::size_t i = 24; i < 48; ++i) // the second point's window has one row
    if (i / 3 % 2 == 1)
      EXPECT_TRUE(std::isnan(by_head[i])) << i;
    else
      EXPECT_EQ(by_head[i], static_cast<double>(i));
}

} // namespace
} // namespace pluvia
