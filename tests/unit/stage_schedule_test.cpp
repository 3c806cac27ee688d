// The instructions of a pipeline, for up to 8 stages and 16 micro-batches: nobody waits for ever, everything
// is done once, no stage holds more than it may, and stages idle as the theory says.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/parallel/stage_schedule.hpp"

namespace pluvia {
namespace {

using Kind = Instruction::Kind;

std::vector<std::vector<Instruction>> all_stages(int stages, int micro_batches,
                                                 const std::vector<StageLink>& links) {
  std::vector<std::vector<Instruction>> out;
  for (int s = 0; s < stages; ++s) out.push_back(list_instructions(stages, s, micro_batches, links));
  return out;
}

template <class Check> void for_all(Check&& check) {
  for (int stages = 1; stages <= 8; ++stages)
    for (int micro_batches = 1; micro_batches <= 16; ++micro_batches) {
      SCOPED_TRACE(std::to_string(stages) + " stages, " + std::to_string(micro_batches) + " micro-batches");
      check(stages, micro_batches);
    }
}

TEST(StageSchedule, DoesEverythingOnceAndInOrder) {
  for_all([](int stages, int micro_batches) {
    for (int s = 0; s < stages; ++s) {
      std::map<Kind, std::vector<int>> done;
      for (const Instruction& i : list_instructions(stages, s, micro_batches, chain_of(stages))) {
        // A pass of a sample comes after the one before it.
        if (i.kind == Kind::backward_inputs) {
          EXPECT_GT(done[Kind::forward].size(), done[i.kind].size());
        }
        if (i.kind == Kind::backward_weights) {
          EXPECT_GT(done[Kind::backward_inputs].size(), done[i.kind].size());
        }
        done[i.kind].push_back(i.micro_batch);
      }
      std::vector<int> all;
      for (int m = 0; m < micro_batches; ++m) all.push_back(m);
      for (const Kind kind : {Kind::forward, Kind::backward_inputs, Kind::backward_weights})
        EXPECT_EQ(done[kind], all);
      for (const Kind kind : {Kind::receive_values, Kind::send_gradients})
        EXPECT_EQ(done[kind], s > 0 ? all : std::vector<int>{});
      for (const Kind kind : {Kind::send_values, Kind::receive_gradients})
        EXPECT_EQ(done[kind], s + 1 < stages ? all : std::vector<int>{});
    }
  });
}

TEST(StageSchedule, HoldsNoMoreActivationsThanItMust) {
  for_all([](int stages, int micro_batches) {
    for (int s = 0; s < stages; ++s) {
      int held = 0, most = 0, waiting = 0, most_waiting = 0, most_of_both = 0;
      for (const Instruction& i : list_instructions(stages, s, micro_batches, chain_of(stages))) {
        held += i.kind == Kind::forward ? 1 : i.kind == Kind::backward_inputs ? -1 : 0;
        waiting += i.kind == Kind::backward_inputs ? 1 : i.kind == Kind::backward_weights ? -1 : 0;
        most = std::max(most, held);
        // What is done right after the inputs does not wait.
        if (i.kind != Kind::backward_inputs && i.kind != Kind::send_gradients)
          most_waiting = std::max(most_waiting, waiting);
        most_of_both = std::max(most_of_both, held + waiting);
      }
      EXPECT_EQ(most, std::min(stages - s, micro_batches));
      EXPECT_EQ(most, samples_in_flight(stages, s, micro_batches));
      EXPECT_LE(most_waiting, samples_deferred(s, micro_batches));
      EXPECT_LE(most_of_both, std::min(stages, micro_batches));
    }
  });
}

TEST(StageSchedule, NobodyWaitsForEverWhateverThePassesTake) {
  for_all([](int stages, int micro_batches) {
    std::vector<StageLink> every; // skips may go from any stage to any later one
    for (int from = 0; from < stages; ++from)
      for (int to = from + 1; to < stages; ++to) every.push_back({from, to});
    for (const auto& links : {chain_of(stages), every})
      for (const double uneven : {0.0, 1.0, 7.0}) {
        std::vector<StageCosts> costs;
        for (int s = 0; s < stages; ++s) costs.push_back({1 + uneven * (s % 3), 1.0, 1 + uneven * (s % 2)});
        EXPECT_TRUE(simulate(all_stages(stages, micro_batches, links), costs));
      }
  });
}

TEST(StageSchedule, WaitingForEverIsNoticed) {
  auto stages = all_stages(2, 1, chain_of(2));
  std::erase_if(stages[0], [](const Instruction& i) { return i.kind == Kind::send_values; });
  EXPECT_FALSE(simulate(stages, std::vector<StageCosts>(2)));
}

TEST(StageSchedule, IdlesAsTheTheorySays) {
  for_all([](int stages, int micro_batches) {
    const auto lists = all_stages(stages, micro_batches, chain_of(stages));
    const double s = stages, m = micro_batches;
    // One forward, one backward of one unit each, weights within the latter.
    const auto whole = simulate(lists, std::vector<StageCosts>(lists.size(), {1, 1, 0}));
    ASSERT_TRUE(whole);
    EXPECT_NEAR(idle_share(*whole), (s - 1) / (m + s - 1), 1e-12);
    // Three passes of one unit each. Undivided, the share above would stay.
    const auto divided = simulate(lists, std::vector<StageCosts>(lists.size(), {1, 1, 1}));
    ASSERT_TRUE(divided);
    const double bubble = s - 1 + std::max(0.0, s - m);
    EXPECT_NEAR(duration(*divided), 3 * m + bubble, 1e-9);
    EXPECT_NEAR(idle_share(*divided), bubble / (3 * m + bubble), 1e-12);
    EXPECT_TRUE(stages == 1 || idle_share(*divided) < idle_share(*whole));
  });
}

TEST(StageSchedule, IsDrawn) {
  const auto lists = all_stages(2, 2, chain_of(2));
  const auto times = simulate(lists, std::vector<StageCosts>(2));
  ASSERT_TRUE(times);
  EXPECT_EQ(draw(*times, 14), "stage 0  |F0F1..B0W0B1W1|\nstage 1  |..F0B0F1B1W0W1|\n");
}

} // namespace
} // namespace pluvia
