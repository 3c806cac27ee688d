// The accelerator's memory: copies there and back, fresh values that are no numbers, and a pretend one that
// lets nobody but kernels in.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/device_array.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/core/upload.hpp"

namespace pluvia {
namespace {

class Accelerator : public ::testing::Test {
  void SetUp() override {
    if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  }
};

TEST_F(Accelerator, KeepsWhatIsCopiedThere) {
  Tensor here({2, 3, 5, 7, 3}, {1, 0, 2, 1, 0, 3});
  std::iota(here.storage().begin(), here.storage().end(), 0.0F);
  const Tensor there = here.to(Device::gpu);
  EXPECT_EQ(there.device(), Device::gpu);
  const Tensor moved_margins = there.clone({0, 2, 0, 0, 1, 1}).to(Device::host);
  for (Index b = 0; b < 2; ++b)
    for (Index t = 0; t < 3; ++t)
      for (Index y = 0; y < 5; ++y)
        for (Index i = 0; i < 7 * 3; ++i)
          EXPECT_EQ(moved_margins.cell(b, t, y, 0)[i], here.cell(b, t, y, 0)[i]);
  EXPECT_EQ(values_of(there), values_of(here));
}

TEST_F(Accelerator, AddsAndFills) {
  Tensor sum = Tensor::zeros({1, 2, 3, 4, 5}, {}, Device::gpu),
         more({1, 2, 3, 4, 5}, {0, 0, 1, 1, 1, 1}, Device::gpu);
  more.fill(2.5F);
  add_to(sum, more);
  add_to(sum, more);
  for (const float v : values_of(sum)) EXPECT_EQ(v, 5.0F);
}

TEST_F(Accelerator, GivesMemoryBack) {
  const DeviceArray<float> kept(1000);
  for (int i = 0; i < 1000; ++i) const DeviceArray<float> passing(std::size_t{1} << 20);
  EXPECT_LT(accelerator::peak_bytes(), std::size_t{256} << 20);
}

TEST_F(Accelerator, DoesNotWaitForWhatItIsSent) {
  constexpr std::size_t n = 1000;
  Tensor there({1, 1, 1, 1, n}, {}, Device::gpu);
  Upload<float> upload(there.storage().data(), n);
  std::vector<Tensor> seen;
  for (int i = 0; i < 7; ++i) {
    std::ranges::fill(upload.next(), static_cast<float>(i));
    upload.send();
    seen.push_back(there.clone());
  }
  for (int i = 0; i < 7; ++i)
    for (const float v : values_of(seen[static_cast<std::size_t>(i)])) EXPECT_EQ(v, static_cast<float>(i));
}

TEST_F(Accelerator, ValuesHaveArrivedAtTheirMark) {
  const bool pretend = accelerator::kind() == accelerator::Kind::pretend;
  Tensor there({1, 1, 1, 1, 2}, {}, Device::gpu);
  PinnedArray<float> first(2), second(2);
  accelerator::Mark of_first;
  there.fill(1);
  accelerator::start_to_host(first.data(), there.storage().data(), 2 * sizeof(float));
  of_first.set();
  there.fill(2);
  accelerator::start_to_host(second.data(), there.storage().data(), 2 * sizeof(float));
  of_first.wait();
  EXPECT_EQ(first[1], 1.0F);
  EXPECT_TRUE(!pretend || std::isnan(second[1])) << "nobody has waited for it";
  accelerator::wait();
  EXPECT_EQ(second[1], 2.0F);
}

TEST_F(Accelerator, PinnedMemoryIsNotReusedWhileItIsRead) {
  float* const used = PinnedArray<float>(100).data();
  EXPECT_NE(PinnedArray<float>(100).data(), used);
  accelerator::wait();
  const PinnedArray<float> again(100), other(100);
  EXPECT_TRUE(again.data() == used || other.data() == used);
}

TEST_F(Accelerator, ReplaysWhatItRecorded) {
  Tensor in({1, 1, 1, 1, 3}, {}, Device::gpu), sum = Tensor::zeros({1, 1, 1, 1, 3}, {}, Device::gpu);
  accelerator::Recording recording([&] {
    Tensor twice = in.clone();
    add_to(twice, in);
    const Tensor passing = twice.clone();
    add_to(sum, passing);
  });
  EXPECT_EQ(values_of(sum)[0], 0.0F) << "recorded, not done";
  for (const float value : {1.0F, 10.0F}) {
    in.fill(value);
    const Tensor beside({1, 1, 1, 1, 3}, {}, Device::gpu); // must not get the recording's memory
    recording.replay();
  }
  EXPECT_EQ(values_of(sum)[2], 22.0F);
}

TEST_F(Accelerator, PretendedRecordsNothingThatLeavesIt) {
  if (accelerator::kind() != accelerator::Kind::pretend) GTEST_SKIP() << "this is a real one";
  Tensor in = Tensor::zeros({1, 1, 1, 1, 3}, {}, Device::gpu), kept;
  const auto record = [](const std::function<void()>& work) { accelerator::Recording{work}; };
  EXPECT_THROW(record([&] { values_of(in); }), Error);
  EXPECT_THROW(record([&] { set_values(in, std::vector<float>(3)); }), Error);
  EXPECT_THROW(record([&] { accelerator::wait(); }), Error);
  EXPECT_THROW(record([&] { kept = in.clone(); }), Error);
  EXPECT_THROW(record([&] { in = Tensor(); }), Error);
  record([&] { kept.fill(0); });
}

TEST_F(Accelerator, PretendedHoldsNoNumbersUntilWritten) {
  if (accelerator::kind() != accelerator::Kind::pretend) GTEST_SKIP() << "this is a real one";
  for (const float v : DeviceArray<float>(100).values()) EXPECT_TRUE(std::isnan(v));
}

TEST_F(Accelerator, PretendedLetsNobodyElseIn) {
  if (accelerator::kind() != accelerator::Kind::pretend) GTEST_SKIP() << "this is a real one";
  DeviceArray<float> there(100);
  const volatile float* const secret = there.data();
  EXPECT_DEATH((void)*secret, "");
  EXPECT_DEATH(*there.data() = 1.0F, "");
}

} // namespace
} // namespace pluvia
