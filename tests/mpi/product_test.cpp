// A forecast file holds the same data whatever the number of ranks that wrote it.
#include "pluvia/forecast/product.hpp"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>

#include <gtest/gtest.h>
#include <hdf5.h>

#include "pluvia/io/netcdf.hpp"
#include "scratch.hpp"

using namespace pluvia;
using pluvia::test::failure_of;
namespace fs = std::filesystem;

namespace {

constexpr Time init = 1577772000; // 2019-12-31T06:00Z
constexpr Index ny = 37, nx = 53;

ProductHeader header() {
  ProductHeader h;
  for (Index i = 0; i < ny; ++i) h.grid.y.push_back(-10 + 0.2 * static_cast<double>(i));
  for (Index i = 0; i < nx; ++i) h.grid.x.push_back(-90 + 0.2 * static_cast<double>(i));
  h.leads_hours = {6, 12, 24};
  h.thresholds_mm = {0.2, 1, 5, 25.4};
  h.configuration = "target:\n  window_hours: 6\n";
  h.weights_digest = "sha256:0123";
  h.predictors = "tb_mean,tb_min";
  h.history = 6;
  return h;
}

/// Falls with the threshold; one corner is missing.
float probability(std::size_t lead, std::size_t threshold, Index y, Index x) {
  if (y < 3 && x < 2) return std::numeric_limits<float>::quiet_NaN();
  const double wave =
      0.5 + 0.5 * std::sin(0.31 * static_cast<double>(y) + 0.17 * static_cast<double>(x * (lead + 1)));
  return static_cast<float>(std::pow(wave, 1.0 + static_cast<double>(threshold)));
}

ProductTile tile_of(const ProductHeader& h, const Rect& rect, bool with_logits) {
  ProductTile t;
  t.leads = {0, static_cast<Index>(h.leads_hours.size())};
  t.tile = rect;
  const auto each = [&](std::size_t planes, std::vector<float>& out, auto value) {
    for (std::size_t lead = 0; lead < h.leads_hours.size(); ++lead)
      for (std::size_t k = 0; k < planes; ++k)
        for (Index y = rect.y0; y < rect.y1; ++y)
          for (Index x = rect.x0; x < rect.x1; ++x) out.push_back(value(lead, k, y, x));
  };
  each(h.thresholds_mm.size(), t.probability, probability);
  if (with_logits)
    each(h.thresholds_mm.size() + 1, t.logits, [](std::size_t lead, std::size_t k, Index y, Index x) {
      return 0.123456789F * static_cast<float>(y) - static_cast<float>(x * Index(k)) / 7 +
             static_cast<float>(lead);
    });
  for (Index y = rect.y0; y < rect.y1; ++y)
    for (Index x = rect.x0; x < rect.x1; ++x)
      t.quality.push_back(
          static_cast<std::uint8_t>((y + x) % 3 == 0 ? input_pixel_missing | context_truncated : 0));
  if (h.grid.kind == Grid::Kind::projected)
    for (Index y = rect.y0; y < rect.y1; ++y)
      for (Index x = rect.x0; x < rect.x1; ++x) {
        t.latitudes.push_back(50.0F + 0.1F * static_cast<float>(y) - 0.01F * static_cast<float>(x));
        t.longitudes.push_back(5.0F + 0.1F * static_cast<float>(x));
      }
  return t;
}

class Product : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  test::ScratchFolder folder{world};
  Rect mine() const {
    const GridShape shape = choose_grid_shape(ny, nx, 3, world.size());
    return Tiling(ny, nx, 3, shape.rows, shape.cols).tile(world.rank(), 0);
  }
};

/// Every variable and attribute but those that say when the file was made.
void expect_same(const std::string& a_path, const std::string& b_path) {
  const NcReader a(a_path), b(b_path);
  const auto same_attributes = [&](const std::string& variable) {
    ASSERT_EQ(a.attributes(variable), b.attributes(variable));
    for (const std::string& name : a.attributes(variable)) {
      if (name == "date_created" || name == "history") continue;
      EXPECT_EQ(a.text(variable, name), b.text(variable, name)) << variable << " " << name;
      EXPECT_EQ(a.numbers(variable, name), b.numbers(variable, name)) << variable << " " << name;
    }
  };
  same_attributes("");
  ASSERT_EQ(a.variables().size(), b.variables().size());
  for (const NcVariable& variable : a.variables()) {
    same_attributes(variable.name);
    const auto left = a.values(variable.name), right = b.values(variable.name);
    ASSERT_EQ(left.size(), right.size());
    for (std::size_t i = 0; i < left.size(); ++i)
      ASSERT_TRUE(left[i] == right[i] || (std::isnan(left[i]) && std::isnan(right[i])))
          << variable.name << " " << i;
  }
}

/// The bytes of every chunk of a variable as they are stored, after shuffling and compression.
std::map<std::vector<hsize_t>, std::vector<unsigned char>> stored_chunks(const std::string& path,
                                                                         const char* variable, int rank) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t data = H5Dopen2(file, variable, H5P_DEFAULT), space = H5Dget_space(data);
  hsize_t count = 0;
  H5Dget_num_chunks(data, space, &count);
  std::map<std::vector<hsize_t>, std::vector<unsigned char>> out;
  for (hsize_t i = 0; i < count; ++i) {
    std::vector<hsize_t> at(static_cast<std::size_t>(rank));
    hsize_t size = 0;
    std::uint32_t mask = 0;
    H5Dget_chunk_info(data, space, i, at.data(), nullptr, nullptr, &size);
    std::vector<unsigned char> bytes(size);
    H5Dread_chunk(data, H5P_DEFAULT, at.data(), &mask, bytes.data());
    out.emplace(at, std::move(bytes));
  }
  H5Sclose(space);
  H5Dclose(data);
  H5Fclose(file);
  return out;
}

} // namespace

TEST_F(Product, HoldsTheSameDataWhateverTheRankCount) {
  const ProductHeader h = header();
  const std::string many = folder / "many/pluvia_pop.nc", one = folder / "one/pluvia_pop.nc";
  write_product(world, many, h, init, tile_of(h, mine(), true));
  if (world.rank() == 0) {
    const Communicator alone(MPI_COMM_SELF);
    write_product(alone, one, h, init, tile_of(h, {0, ny, 0, nx}, true));
    expect_same(many, one);
  }
}

TEST_F(Product, StoresTheSameBytesWhateverTheRankCount) {
  ProductHeader h = header();
  h.grid.x.clear(); // three chunks wide, the last one reaching beyond the grid
  const Index wide = 1031;
  for (Index i = 0; i < wide; ++i) h.grid.x.push_back(-90 + 0.05 * static_cast<double>(i));
  const GridShape shape = choose_grid_shape(ny, wide, 3, world.size());
  const Rect tile = Tiling(ny, wide, 3, shape.rows, shape.cols).tile(world.rank(), 0);
  const std::string many = folder / "many/wide.nc", one = folder / "one/wide.nc";
  write_product(world, many, h, init, tile_of(h, tile, true));
  if (world.rank() != 0) return;
  const Communicator alone(MPI_COMM_SELF);
  write_product(alone, one, h, init, tile_of(h, {0, ny, 0, wide}, true));
  expect_same(many, one);
  const auto probability_chunks = stored_chunks(one, "probability_of_precipitation", 4);
  EXPECT_EQ(probability_chunks.size(), 3U * 4U * 3U);
  EXPECT_EQ(probability_chunks, stored_chunks(many, "probability_of_precipitation", 4));
  EXPECT_EQ(stored_chunks(one, "logits", 4), stored_chunks(many, "logits", 4));
  EXPECT_EQ(stored_chunks(one, "quality_flag", 3), stored_chunks(many, "quality_flag", 3));
}

TEST_F(Product, ReadsBackRoundedAndMonotone) {
  const ProductHeader h = header();
  const std::string path = folder / product_name(init);
  write_product(world, path, h, init, tile_of(h, mine(), false));
  const ProductInfo info = read_product_info(path);
  EXPECT_EQ(info.init, init);
  EXPECT_EQ(info.leads_hours, h.leads_hours);
  EXPECT_EQ(info.thresholds_mm, h.thresholds_mm);
  EXPECT_EQ(info.window_hours, 6.0);
  EXPECT_EQ(info.grid, h.grid);
  EXPECT_FALSE(NcReader(path).has("logits"));
  const Rect part{1, 30, 0, 50};
  const std::vector<float> values = read_product(info, part);
  std::size_t i = 0;
  const auto cells = static_cast<std::size_t>(part.cells());
  for (std::size_t lead = 0; lead < 3; ++lead)
    for (std::size_t k = 0; k < 4; ++k)
      for (Index y = part.y0; y < part.y1; ++y)
        for (Index x = part.x0; x < part.x1; ++x, ++i) {
          const float p = probability(lead, k, y, x);
          if (std::isnan(p)) {
            ASSERT_TRUE(std::isnan(values[i]));
            continue;
          }
          ASSERT_NEAR(values[i], p, 0.0005001F);
          ASSERT_EQ(values[i], static_cast<float>(std::round(static_cast<double>(values[i]) * 1000) / 1000));
          if (k > 0) {
            ASSERT_LE(values[i], values[i - cells]);
          }
        }
  EXPECT_EQ(product_name(init), "pluvia_pop_i20191231T0600Z.nc");
}

TEST_F(Product, KeepsAProjectedGrid) {
  ProductHeader h = header();
  h.grid.kind = Grid::Kind::projected;
  h.grid.y_name = "y", h.grid.x_name = "x", h.grid.y_units = h.grid.x_units = "m";
  h.grid.mapping_texts = {{"grid_mapping_name", "lambert_azimuthal_equal_area"}};
  h.grid.mapping_numbers = {{"latitude_of_projection_origin", {52.0}},
                            {"longitude_of_projection_origin", {10.0}}};
  const std::string path = folder / "projected.nc";
  write_product(world, path, h, init, tile_of(h, mine(), false));
  EXPECT_EQ(read_product_info(path).grid, h.grid);
  const NcReader file(path);
  EXPECT_EQ(file.text("probability_of_precipitation", "coordinates"),
            "forecast_period forecast_reference_time lat lon");
  EXPECT_NEAR(file.numbers("", "geospatial_lat_max").at(0), 50.0 + 0.1 * (ny - 1), 1e-4);
  EXPECT_NEAR(file.values("lon").back(), 5.0 + 0.1 * (nx - 1), 1e-5);
}

TEST_F(Product, AFailedWriteLeavesNothing) {
  const ProductHeader h = header();
  const std::string path = folder / "impossible.nc";
  ProductTile bad = tile_of(h, mine(), false);
  if (world.rank() == world.size() - 1) bad.probability.back() = 1.5F;
  EXPECT_EQ(failure_of([&] { write_product(world, path, h, init, bad); }).code, ExitCode::failed);
  EXPECT_FALSE(fs::exists(path));
  EXPECT_FALSE(fs::exists(path + ".part"));
  // What was there before stays as it was.
  write_product(world, path, h, init, tile_of(h, mine(), false));
  world.barrier();
  const auto size = fs::file_size(path);
  EXPECT_NE(failure_of([&] { write_product(world, path, h, init, bad); }).code, ExitCode::done);
  EXPECT_EQ(fs::file_size(path), size);
}

TEST_F(Product, RefusesOtherFiles) {
  const std::string path = folder / "other.nc";
  {
    NcWriter file(world, path);
    file.add_dimension("time", 1);
    file.commit();
  }
  const auto failure = failure_of([&] { read_product_info(path); });
  EXPECT_EQ(failure.code, ExitCode::data);
  EXPECT_NE(failure.text.find("other.nc"), std::string::npos);
}

TEST_F(Product, ForOtherTools) {
  const char* output = std::getenv("PLUVIA_TEST_OUTPUT");
  if (output == nullptr) GTEST_SKIP() << "the scripts of tests/e2e ask for a file with PLUVIA_TEST_OUTPUT";
  const ProductHeader h = header();
  write_product(world, std::string(output) + "/" + product_name(init), h, init, tile_of(h, mine(), true));
}
