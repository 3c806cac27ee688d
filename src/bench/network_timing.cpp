#include "pluvia/bench/network_timing.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "pluvia/core/instant.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/train/precision.hpp"

namespace pluvia {

namespace {

/// A closed grid of so many cells.
Grid grid_of(Index ny, Index nx) {
  Grid grid;
  grid.y.resize(static_cast<std::size_t>(ny));
  grid.x.resize(static_cast<std::size_t>(nx));
  return grid;
}

Var random_leaf(const Shape& shape, Margin margin, std::uint64_t stream) {
  Tensor t = Tensor::apart(shape, margin);
  t.fill(0.0F);
  const Index row = shape.x * shape.c;
  parallel_for(shape.b * shape.t * shape.y, [&](Index i) {
    float* const to = t.cell(i / shape.y / shape.t, i / shape.y % shape.t, i % shape.y, 0);
    for (Index k = 0; k < row; ++k)
      to[k] = static_cast<float>(
          random_normal(1, RandomPurpose::test, static_cast<std::uint64_t>(i * row + k), stream));
  });
  return Tape::leaf(std::move(t));
}

} // namespace

NetworkTiming::NetworkTiming(const Communicator& comm, const Settings& settings, Precision precision,
                             Device device, Index ny, Index nx)
    : comm_(comm), settings_(settings),
      trainee_(comm, settings, grid_of(ny, nx),
               {settings.bench.inputs, settings.target.leads_hours,
                static_cast<Index>(settings.target.thresholds_mm.size()) + 1},
               share_out(comm, settings, settings.bench.samples, "bench.samples"), device, precision) {
  const StUnetPorts& ports = trainee_.ports;
  const Decomposition& tiles = trainee_.step_tiles;
  const Rect own = tiles.tile(0);
  const auto stream = 1 + 3 * static_cast<std::uint64_t>(trainee_.grid.replica); // of a sample for each
  const auto all_leads = static_cast<Index>(ports.lead_hours.size()), leads = tiles.leads(all_leads).size();
  input_ =
      random_leaf({1, tiles.frames(settings.model.history).size(), own.height(), own.width(), ports.inputs},
                  trainee_.network.input_margin(), stream);
  base_ = random_leaf({1, leads, own.height(), own.width(), ports.classes}, {}, stream + 1);
  const auto values = static_cast<std::size_t>(leads * own.cells());
  for (std::size_t i = 0; i < values; ++i)
    target_.classes.push_back(static_cast<std::int8_t>(random_bits(1, RandomPurpose::test, i, stream + 2) %
                                                       static_cast<std::uint64_t>(ports.classes)));
  target_.weights.assign(static_cast<std::size_t>(leads * own.height()),
                         1.0F / static_cast<float>(all_leads * ny * nx));
  if (device == Device::host || !settings.bench.training) return; // forecasts take their input from the host
  there_.emplace();
  there_->send(0, 0, input_->value, base_->value, target_);
  input_ = there_->input(0), base_ = there_->base(0);
}

void NetworkTiming::forecast(Profile* profile) {
  Tape tape(Tape::Mode::forget, trainee_.precision, Tape::Keep::everything, profile);
  if (profile) profile->start();
  trainee_.network.forward(tape, trainee_.step_tiles, input_, base_);
  if (trainee_.device == Device::gpu) accelerator::wait();
}

/// When what was done, for who looks at it when the step is over: the accelerator is not waited for before.
struct NetworkTiming::Watch {
  struct Lap {
    Instant begin, end;
  };
  Device device;
  Instant begin{device}, first = begin, passed = begin; ///< of the step, its first pass; the end of the last
  std::vector<std::pair<Instruction, Instant>> followed = {};
  std::vector<Lap> losses = {}, sums = {}; ///< within passes, which are not over before

  Instant now() const { return Instant(device); }
  template <class Work> void time(std::vector<Lap>& laps, Work&& work) {
    const Instant before = now();
    work();
    laps.push_back({before, now()});
  }
  static double total(const std::vector<Lap>& laps) {
    double seconds = 0;
    for (const Lap& lap : laps) seconds += lap.end.since(lap.begin);
    return seconds;
  }
  StageTimeline timeline() const {
    StageTimeline out;
    for (const auto& [what, end] : followed)
      out.push_back({what, out.empty() ? 0 : out.back().end, end.since(first)});
    return out;
  }
};

double NetworkTiming::gradients(Watch* watch, Profile* profile) {
  trainee_.network.parameters().zero_gradients();
  GradientSync sync(comm_, trainee_.shards.parameters(), trainee_.gradients.link.get());
  Pipeline::Batch batch{.size = static_cast<int>(settings_.bench.samples)};
  batch.tape = [&] {
    if (profile) profile->start();
    return std::make_unique<Tape>(Tape::Mode::record, trainee_.precision, keep_of(settings_.train), profile,
                                  blocks_of(settings_, trainee_.step_tiles));
  };
  batch.load = [&](int) { return Pipeline::Sample{input_, base_}; };
  batch.score = [&](int, const Var& logits, const Tape& tape) {
    const auto score = [&] {
      if (there_)
        ordinal_loss(logits, there_->target(0), tape, there_->loss());
      else
        ordinal_loss(logits, target_, tape);
    };
    watch ? watch->time(watch->losses, score) : score();
  };
  // Over a link sums take none of the time of what is asked for between.
  const bool between = watch && comm_.size() > 1 && !trainee_.gradients.link;
  batch.whole = [&](auto whole) {
    const auto complete = [&] { sync.complete(whole); };
    between ? watch->time(watch->sums, complete) : complete();
  };
  if (watch) {
    watch->first = watch->now();
    batch.followed = [&](const Instruction& what) { watch->followed.emplace_back(what, watch->now()); };
  }
  trainee_.pipeline.run(batch);
  if (watch) watch->passed = watch->now();
  sync.finish();
  return sync.hidden_seconds();
}

StepPhases NetworkTiming::step(Profile* profile) {
  StepPhases phases;
  const std::map<Layer, HaloCost> before = trainee_.step_tiles.halo_costs();
  Watch watch{trainee_.device};
  if (there_) there_->clear(), send_rates(trainee_.adam, 1e-3, 1e-2);
  phases.hidden = gradients(&watch, profile);
  const Instant summed = watch.now();
  if (there_)
    update_there(trainee_.adam, trainee_.shards, 1.0, there_->norm());
  else
    update(trainee_.adam, trainee_.shards, 1e-3, 1e-2,
           std::min(1.0, 1.0 / gradient_norm(trainee_.shards.parameters())));
  const Instant end = watch.now();
  phases.optimiser = end.since(summed);
  phases.timeline = watch.timeline();
  for (const Moment& m : phases.timeline) {
    if (m.what.kind == Instruction::Kind::forward) phases.forward += m.end - m.begin;
    if (!is_pass(m.what.kind)) phases.stages += m.end - m.begin;
  }
  const double meanwhile = Watch::total(watch.sums);
  phases.backward = watch.passed.since(watch.begin) - phases.forward - phases.stages - meanwhile;
  phases.reduction = meanwhile + summed.since(watch.passed);
  phases.loss = Watch::total(watch.losses);
  phases.forward -= phases.loss;
  for (const auto& [layer, after] : trainee_.step_tiles.halo_costs()) {
    const auto found = before.find(layer);
    const HaloCost was = found == before.end() ? HaloCost{} : found->second;
    const HaloCost cost{after.pack_seconds - was.pack_seconds, after.wait_seconds - was.wait_seconds,
                        after.bytes - was.bytes, after.messages - was.messages};
    phases.layers[layer] = cost;
    phases.halo.pack_seconds += cost.pack_seconds, phases.halo.wait_seconds += cost.wait_seconds;
    phases.halo.bytes += cost.bytes, phases.halo.messages += cost.messages;
  }
  return phases;
}

void NetworkTiming::recorded_step() {
  send_rates(trainee_.adam, 1e-3, 1e-2);
  recorder_.run(there_->places(), [&] {
    there_->clear();
    gradients(nullptr, nullptr);
    update_there(trainee_.adam, trainee_.shards, 1.0, there_->norm());
  });
  accelerator::wait();
}

} // namespace pluvia
