// A checkpoint comes back as it was on any tiling, and no damage to it goes unnoticed.
#include "pluvia/model/checkpoint.hpp"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

#include <gtest/gtest.h>

#include "scratch.hpp"

using namespace pluvia;
using pluvia::test::failure_of;
namespace fs = std::filesystem;

namespace {

constexpr Index ny = 29, nx = 41;
const Rect domain{0, ny, 0, nx};

float field_value(Index outer, Index y, Index x, Index inner) {
  return std::sin(static_cast<float>(outer + 1) * 0.7F + static_cast<float>(y * 100 + x) * 0.013F) +
         static_cast<float>(inner);
}

TiledField field_of(Index outer, Index inner, const Rect& tile) {
  TiledField field{outer, inner, {}};
  for (Index o = 0; o < outer; ++o)
    for (Index y = tile.y0; y < tile.y1; ++y)
      for (Index x = tile.x0; x < tile.x1; ++x)
        for (Index i = 0; i < inner; ++i) field.values.push_back(field_value(o, y, x, i));
  return field;
}

Checkpoint make(const Rect& tile) {
  Checkpoint c;
  c.step = 1234567890123;
  c.configuration = "model:\n  history: 6\n";
  c.texts = {{"calibration", R"({"a": [0.25]})"}, {"cursor", ""}};
  c.arrays["weights/encoder/0/conv"] = {{3, 2, 5}, {}};
  for (int i = 0; i < 30; ++i)
    c.arrays["weights/encoder/0/conv"].values.push_back(std::exp(0.1F * static_cast<float>(i)));
  c.arrays["weights/head"] = {{2}, {1.5F, std::numeric_limits<float>::denorm_min()}};
  c.arrays["scalar"] = {{}, {42.0F}};
  c.arrays["none"] = {{0, 3}, {}};
  c.fields["climatology"] = field_of(24, 3, tile);
  c.fields["mask"] = field_of(1, 1, tile);
  return c;
}

void expect_equal(const Checkpoint& read, const Checkpoint& made) {
  EXPECT_EQ(read.step, made.step);
  EXPECT_EQ(read.configuration, made.configuration);
  EXPECT_EQ(read.texts, made.texts);
  ASSERT_EQ(read.arrays.size(), made.arrays.size());
  for (const auto& [name, array] : made.arrays) {
    EXPECT_EQ(read.arrays.at(name).extents, array.extents) << name;
    EXPECT_EQ(read.arrays.at(name).values, array.values) << name;
  }
  ASSERT_EQ(read.fields.size(), made.fields.size());
  for (const auto& [name, field] : made.fields) {
    EXPECT_EQ(read.fields.at(name).outer, field.outer);
    EXPECT_EQ(read.fields.at(name).inner, field.inner);
    EXPECT_EQ(read.fields.at(name).values, field.values) << name;
  }
}

class CheckpointFile : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  test::ScratchFolder folder{world};
  Rect rows() const { return Tiling(ny, nx, 2, world.size(), 1).tile(world.rank(), 0); }
  Rect columns() const { return Tiling(ny, nx, 3, 1, world.size()).tile(world.rank(), 0); }
};

} // namespace

TEST_F(CheckpointFile, ComesBackOnAnyTiling) {
  const std::string path = folder / "run/checkpoint.h5";
  const std::string digest = write_checkpoint(world, path, make(rows()), domain, rows());
  EXPECT_FALSE(fs::exists(path + ".part"));
  std::string read_digest;
  expect_equal(read_checkpoint(world, path, columns(), &read_digest), make(columns()));
  EXPECT_EQ(digest, read_digest);
  EXPECT_EQ(digest.substr(0, 7), "sha256:");
  EXPECT_EQ(digest.size(), 7U + 64U);

  // Each rank alone, the whole grid: a run that goes on with one rank.
  const Communicator alone(MPI_COMM_SELF);
  expect_equal(read_checkpoint(alone, path, domain), make(domain));
  Checkpoint header = make(domain);
  header.fields.clear();
  expect_equal(read_checkpoint_header(world, path), header);
}

TEST_F(CheckpointFile, EqualModelsHaveEqualDigestsWhateverTheRankCount) {
  const std::string digest = write_checkpoint(world, folder / "many.h5", make(rows()), domain, rows());
  if (world.rank() != 0) return;
  const Communicator alone(MPI_COMM_SELF);
  EXPECT_EQ(write_checkpoint(alone, folder / "one.h5", make(domain), domain, domain), digest);
  Checkpoint other = make(domain);
  other.arrays["weights/head"].values[0] = std::nextafter(1.5F, 2.0F);
  EXPECT_NE(write_checkpoint(alone, folder / "other.h5", other, domain, domain), digest);
}

TEST_F(CheckpointFile, FlippedBitsAreNoticedEverywhere) {
  const std::string path = folder / "flipped.h5";
  write_checkpoint(world, path, make(rows()), domain, rows());
  world.barrier();
  const auto size = fs::file_size(path);
  // The start of the user block, its digest, its padding, the HDF5 superblock, and places all over the file.
  std::vector<std::uintmax_t> places{0, 5, 20, 30, 90, 91, 92, 4000, 4095, 4096, 4100, size - 1};
  for (std::uintmax_t i = 1; i < 12; ++i) places.push_back(size * i / 12);
  for (const std::uintmax_t place : places) {
    world.barrier();
    char original = 0;
    if (world.rank() == 0) {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(static_cast<std::streamoff>(place)).get(original);
      file.seekp(static_cast<std::streamoff>(place)).put(static_cast<char>(original ^ 0x10));
    }
    world.barrier();
    const auto failure = failure_of([&] { read_checkpoint(world, path, rows()); });
    EXPECT_EQ(failure.code, ExitCode::data) << place;
    EXPECT_NE(failure.text.find("flipped.h5"), std::string::npos) << failure.text;
    world.barrier();
    if (world.rank() == 0) {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(place)).put(original);
    }
  }
  world.barrier();
  expect_equal(read_checkpoint(world, path, rows()), make(rows()));
}

TEST_F(CheckpointFile, TornFilesAreNoticed) {
  const std::string path = folder / "torn.h5";
  write_checkpoint(world, path, make(rows()), domain, rows());
  world.barrier();
  const auto size = fs::file_size(path);
  for (const std::uintmax_t length : {size - 1, size / 2, std::uintmax_t{4097}, std::uintmax_t{4096},
                                      std::uintmax_t{100}, std::uintmax_t{0}}) {
    world.barrier();
    if (world.rank() == 0) fs::resize_file(path, length);
    world.barrier();
    EXPECT_EQ(failure_of([&] { read_checkpoint_header(world, path); }).code, ExitCode::data) << length;
  }
  EXPECT_EQ(failure_of([&] { read_checkpoint_header(world, folder / "absent.h5"); }).code, ExitCode::data);
}

TEST_F(CheckpointFile, AFailedWriteKeepsTheOneBefore) {
  const std::string path = folder / "kept.h5";
  const std::string digest = write_checkpoint(world, path, make(rows()), domain, rows());
  Checkpoint bad = make(rows());
  if (world.rank() == world.size() - 1) bad.fields["mask"].values.pop_back();
  EXPECT_EQ(failure_of([&] { write_checkpoint(world, path, bad, domain, rows()); }).code, ExitCode::failed);
  world.barrier();
  EXPECT_FALSE(fs::exists(path + ".part"));
  Checkpoint clash = make(rows()); // a name that is a folder of another: HDF5 refuses it half-way through
  clash.arrays["weights"] = {{1}, {0.0F}};
  EXPECT_NE(failure_of([&] { write_checkpoint(world, path, clash, domain, rows()); }).code, ExitCode::done);
  world.barrier();
  EXPECT_FALSE(fs::exists(path + ".part"));
  std::string kept;
  read_checkpoint_header(world, path, &kept);
  EXPECT_EQ(kept, digest);
  EXPECT_EQ(failure_of([&] { read_checkpoint(world, path, {0, ny + 1, 0, nx}); }).code, ExitCode::data);
}

TEST_F(CheckpointFile, ForTheProgram) {
  const char* output = std::getenv("PLUVIA_TEST_OUTPUT");
  if (output == nullptr) GTEST_SKIP() << "the scripts of tests/e2e ask for a file with PLUVIA_TEST_OUTPUT";
  write_checkpoint(world, std::string(output) + "/checkpoint.h5", make(rows()), domain, rows());
}
