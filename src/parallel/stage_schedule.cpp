#include "pluvia/parallel/stage_schedule.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace pluvia {

namespace {

using Kind = Instruction::Kind;

bool is_receipt(Kind kind) {
  return kind == Kind::receive_values || kind == Kind::receive_gradients;
}

double cost_of(const StageCosts& costs, Kind kind) {
  switch (kind) {
  case Kind::forward:
    return costs.forward;
  case Kind::backward_inputs:
    return costs.backward_inputs;
  case Kind::backward_weights:
    return costs.backward_weights;
  default:
    return 0;
  }
}

/// Writes the instructions of one stage down.
class Writer {
public:
  Writer(int stage, std::span<const StageLink> links) : stage_(stage), links_(links) {}
  std::vector<Instruction> take() { return std::move(list_); }

  void forward(int m) {
    messages(&StageLink::to, &StageLink::from, Kind::receive_values, m);
    list_.push_back({Kind::forward, m});
    messages(&StageLink::from, &StageLink::to, Kind::send_values, m);
  }
  void backward_inputs(int m) {
    messages(&StageLink::from, &StageLink::to, Kind::receive_gradients, m);
    list_.push_back({Kind::backward_inputs, m});
    messages(&StageLink::to, &StageLink::from, Kind::send_gradients, m);
  }
  void backward_weights(int m) { list_.push_back({Kind::backward_weights, m}); }

private:
  void messages(int StageLink::*own, int StageLink::*other, Kind kind, int m) {
    for (const StageLink& link : links_)
      if (link.*own == stage_) list_.push_back({kind, m, link.*other});
  }
  int stage_;
  std::span<const StageLink> links_;
  std::vector<Instruction> list_;
};

} // namespace

std::vector<StageLink> chain_of(int stages) {
  std::vector<StageLink> out;
  for (int s = 0; s + 1 < stages; ++s) out.push_back({s, s + 1});
  return out;
}

std::vector<Instruction> list_instructions(int stages, int stage, int micro_batches,
                                           std::span<const StageLink> links) {
  Writer writer(stage, links);
  int forward = 0;
  while (forward < std::min(stages - stage, micro_batches)) writer.forward(forward++);
  for (int m = 0; m < micro_batches; ++m) {
    writer.backward_inputs(m);
    if (m >= stage) writer.backward_weights(m - stage);
    if (forward < micro_batches) writer.forward(forward++);
  }
  for (int m = std::max(0, micro_batches - stage); m < micro_batches; ++m) writer.backward_weights(m);
  return writer.take();
}

std::optional<std::vector<StageTimeline>> simulate(std::span<const std::vector<Instruction>> stages,
                                                   std::span<const StageCosts> costs) {
  std::vector<StageTimeline> out(stages.size());
  // Of messages that were sent: values?, sender, receiver, micro-batch.
  std::vector<std::pair<std::tuple<bool, int, int, int>, double>> sent;
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t s = 0; s < stages.size(); ++s) {
      StageTimeline& done = out[s];
      const int stage = static_cast<int>(s);
      while (done.size() < stages[s].size()) {
        const Instruction& next = stages[s][done.size()];
        const bool values = next.kind == Kind::receive_values || next.kind == Kind::send_values;
        const double begin = done.empty() ? 0 : done.back().end;
        double end = begin + cost_of(costs[s], next.kind);
        if (is_receipt(next.kind)) {
          const auto found = std::ranges::find(sent, std::tuple(values, next.peer, stage, next.micro_batch),
                                               [](const auto& message) { return message.first; });
          if (found == sent.end()) break;
          end = std::max(begin, found->second);
        } else if (!is_pass(next.kind)) {
          sent.push_back({{values, stage, next.peer, next.micro_batch}, end});
        }
        done.push_back({next, begin, end});
        moved = true;
      }
    }
  }
  for (std::size_t s = 0; s < stages.size(); ++s)
    if (out[s].size() < stages[s].size()) return std::nullopt;
  return out;
}

bool is_pass(Kind kind) {
  return kind == Kind::forward || kind == Kind::backward_inputs || kind == Kind::backward_weights;
}

namespace {
double beginning(std::span<const StageTimeline> timelines) {
  double first = timelines[0][0].begin;
  for (const StageTimeline& line : timelines) first = std::min(first, line.front().begin);
  return first;
}
} // namespace

double duration(std::span<const StageTimeline> timelines) {
  double last = 0;
  for (const StageTimeline& line : timelines) last = std::max(last, line.back().end);
  return last - beginning(timelines);
}

double idle_share(std::span<const StageTimeline> timelines) {
  double busy = 0;
  for (const StageTimeline& line : timelines)
    for (const Moment& m : line) busy += is_pass(m.what.kind) ? m.end - m.begin : 0;
  return 1 - busy / (static_cast<double>(timelines.size()) * duration(timelines));
}

std::string draw(std::span<const StageTimeline> timelines, int width) {
  const double first = beginning(timelines), scale = width / duration(timelines);
  std::string out;
  for (std::size_t s = 0; s < timelines.size(); ++s) {
    std::string row(static_cast<std::size_t>(width), '.');
    for (const Moment& m : timelines[s]) {
      if (!is_pass(m.what.kind)) continue;
      const auto column = [&](double time) {
        return static_cast<std::size_t>(std::lround((time - first) * scale));
      };
      const std::size_t from = column(m.begin), to = std::min(column(m.end), row.size());
      const char letter = m.what.kind == Kind::forward           ? 'F'
                          : m.what.kind == Kind::backward_inputs ? 'B'
                                                                 : 'W';
      const std::string label = letter + std::to_string(m.what.micro_batch);
      for (std::size_t i = from; i < to; ++i) row[i] = i - from < label.size() ? label[i - from] : '-';
    }
    out += "stage " + std::to_string(s) + "  |" + row + "|\n";
  }
  return out;
}

} // namespace pluvia
