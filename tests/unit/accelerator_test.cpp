// The accelerator's memory: copies there and back, fresh values that are no numbers, and a pretend one that
// lets nobody but kernels in.
#include <algorithm>
#include <chrono>
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

/// Shows whether the work asked for until it was made is done.
class Probe {
public:
  Probe() {
    one_.fill(1);
    accelerator::start_to_host(seen_.data(), one_.storage().data(), sizeof(float));
  }
  /// Of a pretend accelerator, which does nothing before somebody waits for it.
  bool nobody_waited() const {
    return accelerator::kind() != accelerator::Kind::pretend || std::isnan(seen_[0]);
  }
  bool done() const { return seen_[0] == 1.0F; }

private:
  Tensor one_ = Tensor({1, 1, 1, 1, 1}, {}, Device::gpu);
  PinnedArray<float> seen_ = PinnedArray<float>(1);
};

TEST_F(Accelerator, DoesNotWaitForWhatItIsSent) {
  constexpr std::size_t n = 1000;
  Tensor there({1, 1, 1, 1, n}, {}, Device::gpu);
  Upload<float> upload(there.storage().data(), n);
  std::vector<Tensor> seen;
  for (int i = 0; i < 7; ++i) {
    const Probe before;
    std::ranges::fill(upload.next(), static_cast<float>(i));
    upload.send();
    EXPECT_TRUE(before.nobody_waited()) << "what is asked for before has its place, not its time";
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

TEST_F(Accelerator, StampsSayWhenWorkWasDone) {
  using Clock = std::chrono::steady_clock;
  Tensor field({1, 1, 100, 100, 16}, {}, Device::gpu);
  accelerator::wait();
  const auto start = Clock::now();
  const accelerator::Stamp begin;
  field.fill(1);
  const Probe first;
  const accelerator::Stamp middle;
  add_to(field, field);
  const Probe second;
  const accelerator::Stamp end;
  EXPECT_TRUE(first.nobody_waited()) << "to set a stamp is not to wait";
  const double to_middle = middle.since(begin);
  EXPECT_TRUE(first.done() && second.nobody_waited()) << "a stamp is waited for, and nothing behind it";
  const double to_end = end.since(middle);
  EXPECT_TRUE(second.done());
  const double all = std::chrono::duration<double>(Clock::now() - start).count();
  EXPECT_GT(to_middle, 0);
  EXPECT_GT(to_end, 0);
  EXPECT_LE(to_middle + to_end, all);
  EXPECT_NEAR(end.since(begin), to_middle + to_end, 2e-6);
}

TEST_F(Accelerator, CopiesBesideWaitForTheirPlaceAndAreWaitedFor) {
  const bool pretend = accelerator::kind() == accelerator::Kind::pretend;
  constexpr std::size_t n = 1000;
  enum class Order { right, nobody_holds, place_in_use, source_changes };
  const auto read = [&](Order order) { // what lies there before the copy and behind it
    Tensor place({1, 1, 1, 1, n}, {}, Device::gpu);
    place.fill(1);
    PinnedArray<float> sent(n);
    std::fill_n(sent.data(), n, 2.0F);
    accelerator::Mark free, arrived;
    if (order == Order::place_in_use) free.set();
    const Tensor before = place.clone();
    if (order != Order::place_in_use) free.set();
    accelerator::start_beside(place.storage().data(), sent.data(), n * sizeof(float), free, arrived);
    if (order != Order::nobody_holds) arrived.hold_rest();
    const Tensor behind = place.clone();
    if (order == Order::right) arrived.wait();
    if (order == Order::right || order == Order::source_changes) std::fill_n(sent.data(), n, 3.0F);
    return std::pair(values_of(before)[n - 1], values_of(behind)[n - 1]);
  };
  EXPECT_EQ(read(Order::right), std::pair(1.0F, 2.0F));
  if (!pretend) return; // a real one may be lucky
  EXPECT_TRUE(std::isnan(read(Order::nobody_holds).second));
  EXPECT_TRUE(std::isnan(read(Order::place_in_use).first));
  EXPECT_EQ(read(Order::source_changes).second, 3.0F);
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
