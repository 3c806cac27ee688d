// Where the time of a step on an accelerator goes, by its own clock: nobody waits between operators or
// phases, and what they took adds up to no more than the step.
#include <chrono>
#include <cmath>

#include <gtest/gtest.h>

#include "pluvia/bench/network_timing.hpp"
#include "pluvia/core/pinned_array.hpp"

namespace pluvia {
namespace {

using Clock = std::chrono::steady_clock;

class OnAccelerator : public ::testing::Test {
  void SetUp() override {
    if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  }
};

ModelSettings small_model() {
  ModelSettings model;
  model.history = 3;
  model.channels = {16, 32};
  model.attention.radius = 2;
  model.head_init = "random";
  return model;
}

double seconds_of(Profile& profile) {
  double sum = 0;
  for (const Profile::Row& row : profile.rows()) sum += row.forward_seconds + row.pull_seconds;
  return sum;
}

TEST_F(OnAccelerator, AProfileWaitsForNobody) {
  constexpr Index ny = 13, nx = 10, inputs = 3, classes = 4;
  const Communicator alone(MPI_COMM_SELF);
  Decomposition tiles(alone, Tiling(ny, nx, 2, 1, 1, Edge::closed));
  StUnet net(small_model(), {inputs, {6, 12}, classes}, 3);
  net.parameters().move_to(Device::gpu);
  const auto zeros = [](const Shape& shape, const Margin& margin) {
    return Tape::leaf(Tensor::zeros(shape, margin, Device::gpu));
  };
  const Var input = zeros({1, 3, ny, nx, inputs}, net.input_margin()),
            base = zeros({1, 2, ny, nx, classes}, {});
  const DeviceArray<std::int8_t> observed(std::vector<std::int8_t>(2 * ny * nx, 1));
  const DeviceArray<float> weights(std::vector<float>(2 * ny, 1.0F));
  DeviceArray<FixedSum> loss(std::vector<FixedSum>(1));
  Tensor one = Tensor::zeros({1, 1, 1, 1, 1}, {}, Device::gpu);
  accelerator::wait();

  const auto start = Clock::now();
  PinnedArray<float> seen(1); // no number until somebody waits
  accelerator::start_to_host(seen.data(), one.storage().data(), sizeof(float));
  Profile profile(Device::gpu);
  Tape tape(Tape::Mode::record, Precision::f32, Tape::Keep::everything, &profile);
  profile.start();
  const Var logits = net.forward(tape, tiles, input, base);
  ordinal_loss(logits, {observed.data(), weights.data()}, tape, loss.data());
  tape.backward();
  const bool pretend = accelerator::kind() == accelerator::Kind::pretend;
  EXPECT_TRUE(!pretend || std::isnan(seen[0])) << "the profile waited for the accelerator";

  for (const Profile::Row& row : profile.rows()) {
    EXPECT_GT(row.forward_seconds, 0) << row.name;
    EXPECT_GE(row.pull_seconds, 0) << row.name;
    if (row.name == "conv3d") {
      EXPECT_GT(row.pull_seconds, 0);
    }
  }
  EXPECT_EQ(seen[0], 0.0F) << "who reads it waits";
  const double sum = seconds_of(profile);
  EXPECT_LE(sum, std::chrono::duration<double>(Clock::now() - start).count());
  EXPECT_EQ(seconds_of(profile), sum) << "no time is booked twice";
}

TEST_F(OnAccelerator, PhasesAndOperatorsAddUpToTheStep) {
  const Communicator alone(MPI_COMM_SELF);
  Settings settings;
  settings.model = small_model();
  settings.target.leads_hours = {6, 12};
  settings.bench.inputs = 5;
  settings.bench.samples = 2;
  NetworkTiming network(alone, settings, Precision::f32, Device::gpu, 24, 20);
  network.step();
  Profile profile(Device::gpu);
  accelerator::wait();
  const auto start = Clock::now();
  const StepPhases phases = network.step(&profile);
  const double all = std::chrono::duration<double>(Clock::now() - start).count();
  for (const double phase : {phases.forward, phases.loss, phases.backward, phases.optimiser})
    EXPECT_GT(phase, 0);
  EXPECT_GE(phases.reduction, 0);
  EXPECT_EQ(phases.stages, 0);
  EXPECT_LE(phases.total(), all);
  EXPECT_LE(seconds_of(profile), phases.forward + phases.backward + 1e-5);
  EXPECT_GT(seconds_of(profile), 0.5 * (phases.forward + phases.backward)) << "operators are most of it";
  ASSERT_EQ(phases.timeline.size(), list_instructions(1, 0, 2, {}).size());
  double last = 0;
  for (const Moment& m : phases.timeline) {
    EXPECT_EQ(m.begin, last);
    EXPECT_GE(m.end, m.begin);
    last = m.end;
  }
}

} // namespace
} // namespace pluvia
