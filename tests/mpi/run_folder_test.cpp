// A run goes on from its newest whole checkpoint, and never takes a torn one for a good one.
#include "pluvia/train/run_folder.hpp"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "pluvia/core/config.hpp"
#include "pluvia/model/checkpoint.hpp"
#include "scratch.hpp"

using namespace pluvia;
using pluvia::test::failure_of;
namespace fs = std::filesystem;

namespace {

class RunFolderOf : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  Log log{Log::Voice::silent};
  test::ScratchFolder scratch{world};
  RunFolder folder = open_run_folder(world, log, scratch / "run");

  void save(std::int64_t step) {
    Checkpoint c;
    c.step = step;
    c.arrays["weights/head"] = {{2}, {1.5F, 2.5F}};
    write_checkpoint(world, folder.at_step(step), c, {}, {});
  }
  /// Changes a file on rank 0, between barriers.
  template <class Change> void damage(std::int64_t step, Change&& change) {
    world.barrier();
    if (world.rank() == 0) change(folder.at_step(step));
    world.barrier();
  }
  static void flip(const std::string& path, std::uintmax_t place, int bit) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    char byte = 0;
    file.seekg(static_cast<std::streamoff>(place)).get(byte);
    file.seekp(static_cast<std::streamoff>(place)).put(static_cast<char>(byte ^ (1 << bit)));
  }
};

} // namespace

TEST_F(RunFolderOf, NoCheckpoints) {
  EXPECT_EQ(latest_checkpoint(world, log, folder), std::nullopt);
}

TEST_F(RunFolderOf, AFlippedBitAnywhereFallsBackToTheOneBefore) {
  save(2);
  save(4);
  ASSERT_EQ(latest_checkpoint(world, log, folder), folder.at_step(4));
  world.barrier();
  const auto size = fs::file_size(folder.at_step(4));
  constexpr int places = 42; // the first byte, the last, and 40 between them
  for (int i = 0; i < places; ++i) {
    const std::uintmax_t place = (size - 1) * static_cast<std::uintmax_t>(i) / (places - 1);
    damage(4, [&](const std::string& path) { flip(path, place, i % 8); });
    EXPECT_EQ(latest_checkpoint(world, log, folder), folder.at_step(2)) << place;
    damage(4, [&](const std::string& path) {
      EXPECT_FALSE(fs::exists(path));
      fs::rename(path + ".broken", path);
      flip(path, place, i % 8);
    });
  }
  EXPECT_EQ(latest_checkpoint(world, log, folder), folder.at_step(4));
}

TEST_F(RunFolderOf, PruningKeepsWholeOnes) {
  for (std::int64_t step : {2, 4, 6, 8}) save(step);
  for (std::int64_t step : {6, 8})
    damage(step, [](const std::string& path) { fs::resize_file(path, fs::file_size(path) / 2); });
  EXPECT_EQ(latest_checkpoint(world, log, folder), folder.at_step(4));
  save(5);
  prune_checkpoints(world, folder, 2);
  world.barrier();
  EXPECT_FALSE(fs::exists(folder.at_step(2)));
  for (std::int64_t step : {4, 5}) EXPECT_TRUE(fs::exists(folder.at_step(step))) << step;
  EXPECT_EQ(latest_checkpoint(world, log, folder), folder.at_step(5));
}

TEST_F(RunFolderOf, NoneWholeIsAFailureEachTime) {
  for (std::int64_t step : {2, 4}) {
    save(step);
    damage(step, [](const std::string& path) { fs::resize_file(path, 5000); });
  }
  for (int time = 0; time < 2; ++time) {
    const auto failure = failure_of([&] { latest_checkpoint(world, log, folder); });
    EXPECT_EQ(failure.code, ExitCode::data);
    EXPECT_NE(failure.text.find("all 2"), std::string::npos) << failure.text;
  }
}

TEST_F(RunFolderOf, OnlyTheNewestIsGoneOnFrom) {
  EXPECT_EQ(starting_checkpoint(world, log, folder, ""), std::nullopt);
  EXPECT_EQ(starting_checkpoint(world, log, folder, "latest"), std::nullopt);
  EXPECT_EQ(starting_checkpoint(world, log, folder, "elsewhere.h5"), "elsewhere.h5");
  save(2);
  save(4);
  EXPECT_EQ(starting_checkpoint(world, log, folder, "latest"), folder.at_step(4));
  EXPECT_EQ(starting_checkpoint(world, log, folder, folder.at_step(4)), folder.at_step(4));
  for (const std::string& from : {std::string(), std::string("elsewhere.h5"), folder.at_step(2)}) {
    const auto failure = failure_of([&] { starting_checkpoint(world, log, folder, from); });
    EXPECT_EQ(failure.code, ExitCode::usage) << from;
    EXPECT_NE(failure.text.find("checkpoint_00000004.h5"), std::string::npos) << failure.text;
  }
}

TEST_F(RunFolderOf, AModelAloneIsNotWrittenOver) {
  world.barrier();
  if (world.rank() == 0) std::ofstream(folder.best()) << "a model";
  for (const char* from : {"", "latest"})
    EXPECT_EQ(failure_of([&] { starting_checkpoint(world, log, folder, from); }).code, ExitCode::usage);
}

TEST_F(RunFolderOf, AConfigurationOfSomebodyElseIsNotWrittenOver) {
  const auto put = [&](const std::string& text) {
    world.barrier();
    if (world.rank() == 0) std::ofstream(folder.configuration()) << text;
    world.barrier();
  };
  for (const char* text : {"# mine\ntrain: {steps: 3}\n", "a list of birds", ""}) {
    put(text);
    for (const char* from : {"", "latest", "elsewhere.h5"})
      EXPECT_EQ(failure_of([&] { starting_checkpoint(world, log, folder, from); }).code, ExitCode::usage);
  }
  world.barrier();
  if (world.rank() == 0) {
    fs::remove(folder.configuration());
    fs::create_directory(folder.configuration());
  }
  EXPECT_EQ(failure_of([&] { starting_checkpoint(world, log, folder, ""); }).code, ExitCode::usage);
  world.barrier();
  if (world.rank() == 0) fs::remove(folder.configuration());
  const Settings settings;
  put(resolved_yaml(settings)); // of a run that ended before its first checkpoint
  EXPECT_EQ(starting_checkpoint(world, log, folder, ""), std::nullopt);
}

TEST_F(RunFolderOf, OneRunAtATime) {
  const auto failure = failure_of([&] { open_run_folder(world, log, scratch / "run"); });
  EXPECT_EQ(failure.code, ExitCode::usage);
  EXPECT_NE(failure.text.find("process "), std::string::npos) << failure.text;
  { const RunFolder ended = std::move(folder); }
  EXPECT_EQ(open_run_folder(world, log, scratch / "run").lock.held(), world.rank() == 0);
}

TEST_F(RunFolderOf, AJobThatWasQueuedAgainTakesItsFolderBack) {
  const auto open_as = [&](const char* job, const char* starts) {
    setenv("SLURM_JOB_ID", job, 1);
    setenv("SLURM_RESTART_COUNT", starts, 1);
    return open_run_folder(world, log, scratch / "queued");
  };
  const RunFolder first = open_as("17", "0");
  for (const char* job : {"17", "18"}) // a second step of the job, and another job
    EXPECT_EQ(failure_of([&] { open_as(job, job == std::string("17") ? "0" : "1"); }).code, ExitCode::usage);
  require_own(world, first);
  {
    const RunFolder second = open_as("17", "1");
    require_own(world, second);
    EXPECT_EQ(failure_of([&] { require_own(world, first); }).code, ExitCode::failed);
    EXPECT_EQ(failure_of([&] { open_as("17", "1"); }).code, ExitCode::usage);
  }
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
}
