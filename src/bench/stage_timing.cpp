#include "pluvia/bench/stage_timing.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "pluvia/bench/timing.hpp"

namespace pluvia {

namespace {

using Kind = Instruction::Kind;

StageSeconds seconds_of(const StageTimeline& line, double all) {
  StageSeconds out;
  out.rest = all;
  for (const Moment& m : line) {
    double* const sum = m.what.kind == Kind::forward            ? &out.passes.forward
                        : m.what.kind == Kind::backward_inputs  ? &out.passes.backward_inputs
                        : m.what.kind == Kind::backward_weights ? &out.passes.backward_weights
                        : m.what.kind == Kind::receive_values || m.what.kind == Kind::receive_gradients
                            ? &out.receiving
                            : nullptr;
    if (!sum) continue; // sending waits for nobody
    *sum += m.end - m.begin;
    out.rest -= m.end - m.begin;
  }
  return out;
}

template <class Value> double median_over(std::size_t n, Value&& value) {
  Timing t;
  for (std::size_t i = 0; i < n; ++i) t.seconds.push_back(value(i));
  return t.median();
}

} // namespace

std::vector<StageTimeline> gather(const Communicator& line, const StageTimeline& own) {
  std::string bytes(own.size() * sizeof(Moment), '\0');
  std::memcpy(bytes.data(), own.data(), bytes.size());
  std::vector<StageTimeline> out;
  for (const std::string& all : line.all_gather(bytes)) {
    StageTimeline& stage = out.emplace_back(all.size() / sizeof(Moment));
    std::memcpy(stage.data(), all.data(), all.size());
  }
  return out;
}

StageReport summarise(const std::vector<std::vector<StageTimeline>>& steps) {
  const std::size_t stages = steps.front().size();
  std::vector<std::vector<StageSeconds>> seconds; // by step
  for (const auto& step : steps) {
    auto& here = seconds.emplace_back();
    for (const StageTimeline& line : step) here.push_back(seconds_of(line, duration(step)));
  }
  const auto median = [&](std::size_t stage, auto&& member) {
    return median_over(steps.size(), [&](std::size_t i) { return member(seconds[i][stage]); });
  };
  StageReport out;
  std::vector<std::vector<Instruction>> lists(stages);
  std::vector<StageCosts> means;
  for (std::size_t s = 0; s < stages; ++s) {
    out.stages.push_back({{median(s, [](const StageSeconds& x) { return x.passes.forward; }),
                           median(s, [](const StageSeconds& x) { return x.passes.backward_inputs; }),
                           median(s, [](const StageSeconds& x) { return x.passes.backward_weights; })},
                          median(s, [](const StageSeconds& x) { return x.receiving; }),
                          median(s, [](const StageSeconds& x) { return x.rest; })});
    for (const Moment& m : steps.front()[s]) lists[s].push_back(m.what);
    const auto samples = static_cast<double>(
        std::ranges::count_if(lists[s], [](const Instruction& i) { return i.kind == Kind::forward; }));
    const StageCosts& all = out.stages.back().passes;
    means.push_back({all.forward / samples, all.backward_inputs / samples, all.backward_weights / samples});
  }
  out.idle = median_over(steps.size(), [&](std::size_t i) { return idle_share(steps[i]); });
  if (const auto ideal = simulate(lists, means)) out.idle_of_schedule = idle_share(*ideal);
  return out;
}

} // namespace pluvia
