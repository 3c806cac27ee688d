// The accelerator's memory: copies there and back, fresh values that are no numbers, and a pretend one that
// lets nobody but kernels in.
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "pluvia/core/device_array.hpp"
#include "pluvia/core/tensor.hpp"

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
