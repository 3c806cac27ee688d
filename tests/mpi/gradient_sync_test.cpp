// Sums of gradients in buckets that travel while gradients are pulled back.
#include <algorithm>
#include <chrono>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/random.hpp"
#include "pluvia/nn/layers.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/parallel/gradient_sync.hpp"

namespace pluvia {
namespace {

constexpr Index bucket = static_cast<Index>(GradientSync::bucket_size);

/// Smaller than a bucket, larger, and just as large.
enum class Way { exact, fast, staged, linked }; ///< the latter two on accelerators
ParameterSet some_parameters(Way way = Way::fast) {
  ParameterSet set(1);
  for (const Index size :
       {Index{3}, bucket / 2, bucket / 2, bucket + 5, Index{7}, bucket, bucket - 1, Index{1}})
    set.add_constant(std::string("p").append(std::to_string(set.all().size())), size, 0.0F);
  if (way == Way::exact) set.sum_in_blocks();
  return set;
}

/// Whole numbers, whose sums no order rounds.
void fill(const ParameterSet& set, int rank) {
  std::uint64_t n = 0;
  for (Parameter* p : set.all()) {
    std::vector<float> share(p->grad.storage().size());
    for (float& v : share)
      v = static_cast<float>(
          random_below(1000, 1, RandomPurpose::test, n++, static_cast<std::uint64_t>(rank)));
    add_gradient(*p, share);
  }
}

/// Where gradients are summed.
void place(ParameterSet& set, Way way) {
  if (way == Way::staged || way == Way::linked) set.move_to(Device::gpu);
}
std::unique_ptr<DeviceLink> link_of(const Communicator& comm, Way way) {
  return way == Way::linked ? std::make_unique<DeviceLink>(comm) : nullptr;
}
/// Why not; empty: it is possible. Collective.
std::string obstacle(const Communicator& comm, Way way) {
  if (way != Way::staged && way != Way::linked) return {};
  if (accelerator::count() == 0) return "there is no GPU that CUDA can use";
  if (way == Way::linked && !DeviceLink::possible(comm)) return "there are no two ranks with a GPU each";
  return {};
}

void expect_sums_of(const ParameterSet& set, const Communicator& comm, int ranks) {
  ParameterSet wanted = some_parameters();
  for (int rank = 0; rank < ranks; ++rank) fill(wanted, rank);
  for (std::size_t i = 0; i < set.all().size(); ++i)
    EXPECT_TRUE(std::ranges::equal(values_of(set.all()[i]->grad), wanted.all()[i]->grad.storage()))
        << "parameter " << i << " on rank " << comm.rank();
}

class Buckets : public ::testing::TestWithParam<Way> {};

TEST_P(Buckets, HoldEveryParameterOnceInWhateverOrderItIsDone) {
  const Communicator world(MPI_COMM_WORLD);
  if (const auto why = obstacle(world, GetParam()); !why.empty()) GTEST_SKIP() << why;
  ParameterSet set = some_parameters(GetParam());
  const std::vector<Parameter*> all = set.all();
  fill(set, world.rank());
  place(set, GetParam());
  const auto link = link_of(world, GetParam());
  GradientSync sync(world, all, link.get());
  Parameter other;
  sync.complete(std::vector{all[7], all[6], &other});
  sync.complete({});
  sync.complete(std::vector{all[4], all[3], all[2]}); // waits for all[5]
  sync.complete(std::vector{all[5], all[0], all[4]});
  sync.finish();
  expect_sums_of(set, world, world.size());
}

TEST_P(Buckets, RanksWithoutSamplesTakePart) {
  const Communicator world(MPI_COMM_WORLD);
  if (const auto why = obstacle(world, GetParam()); !why.empty()) GTEST_SKIP() << why;
  ParameterSet set = some_parameters(GetParam());
  const std::vector<Parameter*> all = set.all();
  if (world.rank() == 0) fill(set, 0);
  place(set, GetParam());
  const auto link = link_of(world, GetParam());
  GradientSync sync(world, all, link.get());
  if (world.rank() == 0) {
    for (std::size_t i = all.size(); i-- > 0;) sync.complete(std::span(all).subspan(i, 1));
  }
  sync.finish();
  expect_sums_of(set, world, 1);
}

TEST_P(Buckets, LetOtherRanksFinishAfterAFailure) {
  const Communicator world(MPI_COMM_WORLD);
  if (GetParam() == Way::linked) GTEST_SKIP() << "a link ends with what fails";
  if (const auto why = obstacle(world, GetParam()); !why.empty()) GTEST_SKIP() << why;
  const auto start = std::chrono::steady_clock::now();
  for (const bool everywhere : {false, true}) {
    ParameterSet set = some_parameters(GetParam());
    const std::vector<Parameter*> all = set.all();
    fill(set, world.rank());
    place(set, GetParam());
    const auto step = [&] {
      GradientSync sync(world, all);
      if (everywhere || world.rank() == world.size() - 1) {
        if (world.rank() % 2 == 0) sync.complete(std::span(all).last(3));
        throw std::runtime_error("no");
      }
      sync.finish();
    };
    if (everywhere || world.rank() == world.size() - 1)
      EXPECT_THROW(step(), std::runtime_error);
    else
      step();
    // Nothing is left on its way that the next sums could meet.
    ParameterSet next = some_parameters(GetParam());
    fill(next, world.rank());
    place(next, GetParam());
    GradientSync(world, next.all()).finish();
    expect_sums_of(next, world, world.size());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

std::string way_name(const ::testing::TestParamInfo<Way>& info) {
  const char* const names[] = {"Exact", "Fast", "AcceleratorsThroughHosts", "BetweenAccelerators"};
  return names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Sums, Buckets, ::testing::Values(Way::exact, Way::fast, Way::staged, Way::linked),
                         way_name);

TEST(PendingSums, AreNotWaitedForForEverWhenARankDoesNotCome) {
  const Communicator world(MPI_COMM_WORLD), summing(MPI_COMM_WORLD);
  if (world.size() == 1) return;
  const auto start = std::chrono::steady_clock::now();
  if (world.rank() == 0) {
    PendingSums<float> sums(summing);
    sums.start(std::vector<float>(1000, 1.0F));
  }
  world.barrier(); // the others come only now
  const auto waited = std::chrono::steady_clock::now() - start;
  EXPECT_GT(waited, std::chrono::seconds(1));
  if (world.rank() != 0) {
    PendingSums<float> sums(summing);
    sums.start(std::vector<float>(1000, 1.0F));
    EXPECT_EQ(sums.finish()[0][0], static_cast<float>(world.size()));
  }
  world.barrier();
}

TEST(TapeListener, IsToldOfAParameterWhenItsFirstUseIsPulledBack) {
  Parameter p{"p", Tensor::zeros({1, 1, 1, 1, 1}), Tensor::zeros({1, 1, 1, 1, 1})}, q = {"q", {}, {}};
  for (const Tape::Keep keep : {Tape::Keep::everything, Tape::Keep::blocks}) {
    Tape tape(Tape::Mode::record, Precision::f32, keep);
    std::vector<std::string> events;
    const auto use = [&](Tape& t, const Var& x, const char* name, const std::vector<Parameter*>& parameters) {
      return t.record(
          x->value.clone(), {"use", 1},
          [&events, x, name](Node& node) {
            events.push_back(name);
            pass_gradient(node, *x);
          },
          {}, parameters);
    };
    const Var input = Tape::leaf(Tensor::zeros({1, 1, 1, 1, 1}), true);
    const Var a = use(tape, input, "a", {&p});
    const Var b =
        tape.apply([&](Tape& t, const Var& x) { return use(t, use(t, x, "b", {&q}), "c", {&p}); }, a);
    const Var d = use(tape, b, "d", {&q, &p});
    d->grad = Tensor::zeros(d->value.shape());
    tape.backward([&](auto whole) {
      for (const Parameter* w : whole) events.push_back(std::string("whole ").append(w->name));
    });
    EXPECT_EQ(events, (std::vector<std::string>{"d", "c", "b", "whole q", "a", "whole p"}));
  }
}

TEST(TapeListener, HearsOfAllOfANetworkAlmostFromTheLastToTheFirst) {
  ModelSettings settings;
  settings.history = 3;
  settings.channels = {16, 32, 32};
  settings.attention.radius = 1;
  settings.attention.global = "linear";
  const Communicator alone(MPI_COMM_SELF);
  const std::vector<double> lead_hours{6, 12};
  for (const Tape::Keep keep : {Tape::Keep::everything, Tape::Keep::blocks}) {
    StUnet net(settings, {5, lead_hours, 4}, 1);
    Decomposition tiles(alone, Tiling(16, 16, levels_of(settings), 1, 1));
    Tape tape(Tape::Mode::record, Precision::f32, keep);
    const Var out = net.forward(tape, tiles, Tape::leaf(Tensor::zeros({1, 3, 16, 16, 5}, net.input_margin())),
                                Tape::leaf(Tensor::zeros({1, 2, 16, 16, 4})));
    out->grad = Tensor::zeros(out->value.shape());
    const double apart = keep == Tape::Keep::everything ? 8 : 40; // a block has up to 36, all whole at once
    const std::vector<Parameter*> all = net.parameters().all();
    std::vector<Parameter*> heard;
    tape.backward([&](auto whole) { heard.insert(heard.end(), whole.begin(), whole.end()); });
    ASSERT_EQ(heard.size(), all.size());
    std::map<Parameter*, std::size_t> place;
    for (std::size_t i = 0; i < heard.size(); ++i) place[heard[i]] = i;
    ASSERT_EQ(place.size(), all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto wanted = static_cast<double>(all.size() - 1 - i);
      EXPECT_NEAR(static_cast<double>(place[all[i]]), wanted, apart) << all[i]->name;
    }
  }
}

} // namespace
} // namespace pluvia
