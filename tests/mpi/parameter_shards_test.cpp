// However ranks share out weights and what the optimiser keeps for them: the bits of one rank that has all.
#include "pluvia/parallel/parameter_shards.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/device_array.hpp"
#include "pluvia/nn/layers.hpp"
#include "pluvia/train/training_state.hpp"
#include "scratch.hpp"

namespace pluvia {
namespace {

/// With parameters that several ranks own parts of, such that one owns as a whole, and more values than
/// travel at once.
ParameterSet network(Device device = Device::host) {
  ParameterSet set(1);
  set.add_weight("first", {1, 3, 3, 5, 7}, 0.1);
  set.add_constant("bias", 1, 0.5F);
  set.add_weight("large", {1, 27, 1, 101, 128}, 0.1);
  set.add_weight("last", {1, 1, 1, 40, 33}, 0.1);
  set.add_constant("gain", 13, 1.0F);
  set.move_to(device);
  return set;
}

/// The same on every rank.
void set_gradients(const ParameterSet& set, std::uint64_t step) {
  std::uint64_t n = 0;
  for (Parameter* p : set.all()) {
    std::vector<float> gradient(p->value.storage().size());
    for (float& v : gradient) v = static_cast<float>((++n * 40503 + step * 977) % 1009) / 1009.0F - 0.5F;
    set_values(p->grad, gradient);
  }
}

std::vector<float> all_values(const ParameterSet& set) {
  std::vector<float> out;
  for (const Parameter* p : set.all()) {
    const std::vector<float> values = values_of(p->value);
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

void step(const ParameterSet& set, ParameterShards& shards, Adam& adam) {
  set_gradients(set, static_cast<std::uint64_t>(adam.step));
  if (set.device() == Device::gpu) {
    DeviceArray<double> norm(1);
    send_rates(adam, 1e-2, 1e-1);
    return update_there(adam, shards, 1.0, norm.data());
  }
  update(adam, shards, 1e-2, 1e-1, std::min(1.0, 1.0 / gradient_norm(set.all())));
}

struct Ranks : ::testing::Test {
  Communicator world{MPI_COMM_WORLD}, alone{MPI_COMM_SELF};
};

/// By how many ranks a group has at most: all, two (of three ranks one is alone), one.
struct ParametersInShards : Ranks, ::testing::WithParamInterface<int> {
  const int groups = (world.size() + GetParam() - 1) / GetParam();
};

TEST_P(ParametersInShards, EveryRankSetsItsOwnAndGetsTheOthers) {
  for (const Index size : {Index{100000}, Index{3}, Index{0}}) { // the last: fewer values than ranks
    ParameterSet set(1);
    set.add_constant("one", 2, -1.0F);
    set.add_constant("other", size, -1.0F);
    ParameterShards shards(world, set.all(), GetParam());
    std::int64_t owned[] = {shards.size(), shards.first_group() ? shards.size() : 0};
    world.all_reduce(owned, Reduce::sum);
    EXPECT_EQ(owned[0], groups * (size + 2)) << "every group owns all";
    EXPECT_EQ(owned[1], size + 2);
    EXPECT_LE(shards.size() * (world.size() / groups), size + 2 + world.size() / groups) << "equal runs";
    std::vector<float> own;
    for (const ParameterShards::Piece& p : shards.own()) {
      EXPECT_EQ(p.at, static_cast<Index>(own.size()));
      for (Index i = p.values.from; i < p.values.to; ++i)
        own.push_back(static_cast<float>(p.parameter->name == "one" ? i : i + 2));
    }
    shards.set_values(own);
    EXPECT_EQ(shards.values(), own);
    const std::vector<float> all = all_values(set);
    for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<float>(i)) << "of " << size;
  }
}

TEST_P(ParametersInShards, AgreeUnlessAGroupHasOthers) {
  ParameterSet set(1);
  set.add_constant("one", 5, 1.0F);
  const ParameterShards shards(world, set.all(), GetParam());
  EXPECT_TRUE(shards.agree());
  float& value = set.all().front()->value.storage()[3];
  if (shards.first_group()) value = std::nextafter(value, 2.0F);
  EXPECT_EQ(shards.agree(), groups == 1);
}

TEST_P(ParametersInShards, UpdatesAndAveragesHaveTheBitsOfOneRank) {
  enum class Way { host, accelerator, linked };
  for (const Way way : {Way::host, Way::accelerator, Way::linked}) {
    const Device device = way == Way::host ? Device::host : Device::gpu;
    if (device == Device::gpu && accelerator::count() == 0) continue;
    if (way == Way::linked && !DeviceLink::possible(world)) continue; // no two ranks with a GPU each
    const ParameterSet shared = network(device), whole = network(device);
    ParameterShards shards(world, shared.all(), GetParam()), one(alone, whole.all());
    if (way == Way::linked) shards.link_accelerators();
    Adam adam = make_adam(shards), reference = make_adam(one);
    EXPECT_LE(adam.first.storage().size(),
              reference.first.storage().size() / static_cast<std::size_t>(world.size() / groups) + 1);
    for (int i = 0; i < 4; ++i) {
      step(shared, shards, adam);
      step(whole, one, reference);
      EXPECT_EQ(all_values(shared), all_values(whole)) << "step " << i;
    }
    const std::vector<float> weights = all_values(shared);
    swap_average(adam, shards);
    swap_average(reference, one);
    EXPECT_NE(all_values(shared), weights);
    EXPECT_EQ(all_values(shared), all_values(whole));
    swap_average(adam, shards);
    EXPECT_EQ(all_values(shared), weights);
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, ParametersInShards, ::testing::Values(ParameterShards::most_sharing, 2, 1));

struct StatesInShards : Ranks, ::testing::WithParamInterface<int> {
  test::ScratchFolder folder{world};
  const ParameterSet shared = network(), whole = network();
  ParameterShards shards{world, shared.all(), GetParam()}, one{alone, whole.all()};
  Adam adam = make_adam(shards), reference = make_adam(one);
  BestWeights best, best_of_one;

  void train(int steps) {
    for (int i = 0; i < steps; ++i) step(shared, shards, adam), step(whole, one, reference);
  }
  void expect_one_goes_on_alike() {
    step(whole, one, reference);
    step(shared, shards, adam);
    EXPECT_EQ(all_values(shared), all_values(whole));
  }
};

TEST_P(StatesInShards, ComeBack) {
  train(2);
  const TrainingState state = state_of(shards, adam, best, 0.5);
  train(1);
  const std::vector<float> wanted = all_values(shared);
  train(2);
  set_state(state, shards, adam);
  EXPECT_EQ(adam.step, 2);
  step(shared, shards, adam);
  EXPECT_EQ(all_values(shared), wanted);
}

TEST_P(StatesInShards, GoOnFromCheckpointsOnOtherRanks) {
  for (const bool known : {false, true}) {
    train(2);
    if (known) {
      best = {0.25, adam.step, values_of(adam.average)};
      best_of_one = {0.25, adam.step, values_of(reference.average)};
    }
    Checkpoint by_all, by_one;
    store_state(state_of(shards, adam, best, 0.5), shards, by_all);
    store_state(state_of(one, reference, best_of_one, 0.5), one, by_one);
    const std::string digest = write_checkpoint(world, folder / "all.h5", by_all, {}, {});
    if (world.rank() == 0) {
      EXPECT_EQ(write_checkpoint(alone, folder / "one.h5", by_one, {}, {}), digest);
    }
    world.barrier();
    train(3);

    const auto read = [&](const Communicator& comm, const char* name, ParameterShards& whose, Adam& into) {
      const Checkpoint c = read_checkpoint(comm, folder / name, {}, nullptr, own_runs(whose));
      const TrainingState state = load_state(c, whose, folder / name);
      set_state(state, whose, into);
      EXPECT_EQ(state.rate_factor, 0.5);
      return state.best;
    };
    const BestWeights again = read(world, "one.h5", shards, adam),
                      again_of_one = read(alone, "all.h5", one, reference);
    EXPECT_EQ(again.known(), known);
    EXPECT_EQ(again.step, best.step);
    EXPECT_EQ(again.values, best.values);
    EXPECT_EQ(again_of_one.values, best_of_one.values);
    expect_one_goes_on_alike();
  }

  // What is saved to forecast with has the best weights of all ranks, and no state to go on from.
  Checkpoint to_forecast;
  store_best(best, 1, shards, to_forecast);
  write_checkpoint(world, folder / "best.h5", to_forecast, {}, {});
  const Checkpoint read = read_checkpoint(world, folder / "best.h5", {});
  std::vector<float> weights;
  for (const Parameter* p : whole.all()) {
    const std::vector<float>& values = read.arrays.at("weights/" + p->name).values;
    weights.insert(weights.end(), values.begin(), values.end());
  }
  EXPECT_EQ(weights, best_of_one.values);
  EXPECT_EQ(test::failure_of([&] { load_state(read, shards, "best.h5"); }).code, ExitCode::data);
}

INSTANTIATE_TEST_SUITE_P(Groups, StatesInShards, ::testing::Values(ParameterShards::most_sharing, 2, 1));

} // namespace
} // namespace pluvia
