// Training steps on an accelerator: one that is recorded once and replayed does what one does that is asked
// for anew, with other inputs, targets, dropout and rates every time; and what a recording depends on.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/random.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/train/adam.hpp"
#include "pluvia/train/device_step.hpp"

#include "pluvia/train/step_recorder.hpp"

namespace pluvia {
namespace {

class OnAccelerator : public ::testing::Test {
  void SetUp() override {
    if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  }
};

Tensor random_tensor(const Shape& shape, const Margin& margin, std::uint64_t stream) {
  Tensor out = Tensor::zeros(shape, margin);
  std::uint64_t n = 0;
  for (float& v : out.storage()) v = static_cast<float>(random_normal(4, RandomPurpose::test, n++, stream));
  return out;
}

/// Weights, their averages, losses and norms of seven steps of a small network with everything that changes
/// from step to step.
struct Outcome {
  std::vector<float> values;
  std::vector<StepRecorder::Way> ways;
};
Outcome train(bool recorded, Precision precision) {
  constexpr Index ny = 13, nx = 10, inputs = 3, classes = 4;
  const std::vector<double> leads{6, 12};
  ModelSettings settings;
  settings.channels = {16, 32};
  settings.attention.radius = 2;
  settings.head_init = "random";
  const Communicator alone(MPI_COMM_SELF);
  Decomposition tiles(alone, Tiling(ny, nx, 2, 1, 1, Edge::closed));
  StUnet net(settings, {inputs, leads, classes}, 3);
  net.parameters().move_to(Device::gpu);
  const std::vector<Parameter*> parameters = net.parameters().all();
  ParameterShards shards(alone, parameters);
  Adam adam = make_adam(shards);
  DeviceStep there;
  StepRecorder recorder;
  Outcome out;
  const auto take = [&] {
    const DeviceStep::Report report = there.take();
    out.values.push_back(static_cast<float>(report.loss.value()));
    out.values.push_back(static_cast<float>(report.norm));
  };
  for (std::uint64_t step = 0; step < 7; ++step) {
    Target target;
    for (std::uint64_t i = 0; i < ny * nx * leads.size(); ++i)
      target.classes.push_back(static_cast<std::int8_t>(random_below(5, 1, RandomPurpose::test, i, step)) -
                               1);
    target.weights.assign(ny * leads.size(), 1.0F / 260);
    there.send(0, step, random_tensor({1, 3, ny, nx, inputs}, net.input_margin(), step),
               random_tensor({1, 2, ny, nx, classes}, {}, 100 + step), target);
    send_rates(adam, 1e-2 / static_cast<double>(1 + step), 0.1);
    const auto work = [&] {
      there.clear();
      net.parameters().zero_gradients();
      Tape tape(Tape::Mode::record, precision);
      const Var logits =
          net.forward(tape, tiles, there.input(0), there.base(0), {0.3, 5, 0, there.sample(0)});
      ordinal_loss(logits, there.target(0), tape, there.loss());
      tape.backward();
      update_there(adam, shards, 0.5, there.norm());
    };
    if (recorded)
      out.ways.push_back(recorder.run(there.places(), work));
    else
      work();
    there.post();
    if (step > 0) take(); // what the step before found
  }
  take();
  for (const std::vector<float>& values : {shards.values(), values_of(adam.average)})
    out.values.insert(out.values.end(), values.begin(), values.end());
  return out;
}

TEST_F(OnAccelerator, ReplayedStepsHaveTheSameBits) {
  using enum StepRecorder::Way;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const Outcome anew = train(false, precision), replayed = train(true, precision);
    EXPECT_EQ(replayed.ways,
              (std::vector{asked, asked, recorded, StepRecorder::Way::replayed, StepRecorder::Way::replayed,
                           StepRecorder::Way::replayed, StepRecorder::Way::replayed}));
    EXPECT_EQ(replayed.values, anew.values);
    for (const float v : anew.values) ASSERT_TRUE(std::isfinite(v));
    EXPECT_NE(anew.values[0], anew.values[2]) << "losses must differ, or equality says nothing";
  }
}

TEST_F(OnAccelerator, WhatIsNotFiniteChangesNothing) {
  ParameterSet set(1);
  Parameter& p = set.add_constant("p", 2000, 3.0F);
  p.grad.fill(1.0F);
  p.grad.storage()[1500] = INFINITY;
  set.move_to(Device::gpu);
  const Communicator alone(MPI_COMM_SELF);
  ParameterShards shards(alone, set.all());
  Adam adam = make_adam(shards);
  DeviceStep there;
  const auto step = [&] {
    send_rates(adam, 1e-2, 0.1);
    update_there(adam, shards, 1.0, there.norm());
    there.post();
    return there.take().norm;
  };
  EXPECT_FALSE(std::isfinite(step()));
  for (const float v : values_of(p.value)) EXPECT_EQ(v, 3.0F);
  p.grad.fill(2.0F);
  EXPECT_NEAR(step(), 2 * std::sqrt(2000.0), 1e-9);
  for (const float v : values_of(p.value)) EXPECT_LT(v, 3.0F);
}

TEST_F(OnAccelerator, ANewKeyIsRecordedAnew) {
  using enum StepRecorder::Way;
  Tensor sum = Tensor::zeros({1, 1, 1, 1, 1}, {}, Device::gpu),
         one = Tensor::zeros({1, 1, 1, 1, 1}, {}, Device::gpu);
  one.fill(1.0F);
  StepRecorder recorder;
  const int here = 0, elsewhere = 0;
  std::vector<StepRecorder::Way> ways;
  for (const void* place :
       {&here, &here, &here, &here, &elsewhere, &elsewhere, &elsewhere, &elsewhere, &here})
    ways.push_back(recorder.run({place}, [&] { add_to(sum, one); }));
  EXPECT_EQ(ways, (std::vector{asked, asked, recorded, replayed, asked, asked, recorded, replayed, asked}));
  EXPECT_EQ(values_of(sum)[0], 9.0F) << "each step is done once, however";
}

TEST(Recording, ObstaclesAreNamed) {
  const Communicator alone(MPI_COMM_SELF);
  const Decomposition tiles(alone, Tiling(8, 8, 1, 1, 1, Edge::closed));
  Settings settings;
  const auto obstacle = [&](bool linked = true) {
    return recording_obstacle(settings, tiles, alone, linked);
  };
  EXPECT_EQ(obstacle(), "");
  EXPECT_NE(obstacle(false).find("summed on the hosts"), std::string::npos);
  settings.model.attention.global = "linear";
  EXPECT_NE(obstacle().find("domain"), std::string::npos);
  settings.model.attention.global = "none";
  settings.parallel.stages = 2;
  EXPECT_NE(obstacle().find("stages"), std::string::npos);
}

} // namespace
} // namespace pluvia
