#include "pluvia/train/training_steps.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/train/precision.hpp"
#include "pluvia/train/weighing.hpp"

namespace pluvia {

/// The samples of a step that this rank works on, and what they are held against.
struct TrainingSteps::Batch {
  const TrainingSamples& origin;
  const Decomposition& tiles;
  std::vector<TrainingSample> samples = {};
  Weighing weighing = {}; ///< of all ranks' samples

  Var base(const TrainingSample& s) const {
    return base_leaf(tiles, s.base, origin.archive().rule.classes());
  }
  Target target(const TrainingSample& s) const {
    return target_of(s, origin.cells(), weighing, weighing.pairs);
  }
};

TrainingSteps::TrainingSteps(const Communicator& world, const Settings& settings, const Log& log,
                             Trainee& trainee)
    : world_(world), settings_(settings), trainee_(trainee) {
  if (trainee.device == Device::host) return;
  for (const std::string& line : trainee.said) log.info(line);
  there_.emplace();
  if (!settings.train.graph) return;
  if (trainee.obstacle.empty()) recorder_.emplace();
  log.info(trainee.obstacle.empty() ? "steps are recorded once and replayed"
                                    : "steps cannot be recorded: " + trainee.obstacle);
}

void TrainingSteps::take(std::int64_t number, double rate_factor, TrainingSamples& samples) {
  const TrainSettings& t = settings_.train;
  Batch batch{samples, trainee_.tiles};
  together(world_, [&] {
    batch.samples = samples.batch(number, {trainee_.pipeline.first(), trainee_.pipeline.last()});
  });
  std::span<const TrainingSample> counted;
  if (trainee_.grid.counts()) counted = batch.samples;
  batch.weighing = weigh(world_, samples.cells(), counted, static_cast<std::size_t>(t.batch));
  if (batch.weighing.pairs == 0) { // nothing observed in the whole batch: nothing to learn
    ++trainee_.adam.step;
    pending_.push_back({number, false});
    return;
  }
  Outcome outcome{number, true, rate_factor * learning_rate_at(number, t.learning_rate, t.warmup, t.steps)};
  if (there_)
    step_there(batch, outcome.rate);
  else
    step_here(batch, outcome);
  pending_.push_back(outcome);
}

void TrainingSteps::sum_gradients(Pipeline::Batch passes) {
  trainee_.network.parameters().zero_gradients();
  GradientSync sync(world_, trainee_.shards.parameters(), trainee_.gradients.link.get());
  passes.tape = [&] {
    return std::make_unique<Tape>(Tape::Mode::record, trainee_.precision, keep_of(settings_.train), nullptr,
                                  blocks_of(settings_, trainee_.step_tiles));
  };
  passes.whole = [&](auto whole) { sync.complete(whole); };
  trainee_.pipeline.run(passes);
  sync.finish();
}

void TrainingSteps::step_here(Batch& batch, Outcome& outcome) {
  const TrainSettings& t = settings_.train;
  FixedSum loss{};
  const auto nth = [&](int i) -> TrainingSample& { return batch.samples[static_cast<std::size_t>(i)]; };
  Pipeline::Batch passes{.size = static_cast<int>(batch.samples.size())};
  passes.load = [&](int i) {
    TrainingSample& s = nth(i);
    Pipeline::Sample out{.dropout = {t.dropout, static_cast<std::uint64_t>(t.seed), s.drawn}};
    if (trainee_.pipeline.first()) out.input = Tape::leaf(std::move(s.input.features));
    if (trainee_.pipeline.last()) out.base = batch.base(s);
    return out;
  };
  passes.score = [&](int i, const Var& logits, const Tape& tape) {
    const FixedSum share = ordinal_loss(logits, batch.target(nth(i)), tape);
    if (trainee_.grid.counts()) loss.add(share);
  };
  sum_gradients(std::move(passes));
  all_reduce(world_, std::span(&loss, 1));
  outcome.loss = loss.value();
  outcome.norm = gradient_norm(trainee_.shards.parameters());
  if (outcome.finite())
    update(trainee_.adam, trainee_.shards, outcome.rate, t.weight_decay,
           std::min(1.0, t.clip_norm / outcome.norm));
}

void TrainingSteps::step_there(const Batch& batch, double rate) {
  const TrainSettings& t = settings_.train;
  for (std::size_t i = 0; i < batch.samples.size(); ++i) {
    const TrainingSample& s = batch.samples[i];
    Tensor base;
    Target target;
    if (trainee_.pipeline.last()) {
      base = std::move(batch.base(s)->value);
      target = batch.target(s);
    }
    there_->send(i, s.drawn, s.input.features, base, target);
  }
  send_rates(trainee_.adam, rate, t.weight_decay);
  const auto work = [&] {
    there_->clear();
    Pipeline::Batch passes{.size = static_cast<int>(batch.samples.size())};
    passes.load = [&](int i) {
      const auto n = static_cast<std::size_t>(i);
      return Pipeline::Sample{there_->input(n),
                              there_->base(n),
                              {t.dropout, static_cast<std::uint64_t>(t.seed), 0, there_->sample(n)}};
    };
    passes.score = [&](int i, const Var& logits, const Tape& tape) {
      ordinal_loss(logits, there_->target(static_cast<std::size_t>(i)), tape, there_->loss());
    };
    sum_gradients(std::move(passes));
    update_there(trainee_.adam, trainee_.shards, t.clip_norm, there_->norm());
  };
  if (recorder_) {
    std::vector<const void*> key = there_->places();
    for (const Parameter* p : trainee_.shards.parameters()) key.push_back(p->value.storage().data());
    recorder_->run(key, work);
  } else {
    work();
  }
  there_->post();
}

std::optional<TrainingSteps::Outcome> TrainingSteps::settle(std::size_t under_way) {
  if (pending_.size() <= under_way) return std::nullopt;
  Outcome step = pending_.front();
  pending_.pop_front();
  if (!there_ || !step.observed) return step;
  const DeviceStep::Report report = there_->take();
  FixedSum loss{};
  if (trainee_.grid.counts()) loss = report.loss;
  all_reduce(world_, std::span(&loss, 1));
  step.loss = loss.value();
  step.norm = report.norm;
  return step;
}

void TrainingSteps::forget() {
  for (const Outcome& later : pending_)
    if (there_ && later.observed) there_->take();
  pending_.clear();
}

} // namespace pluvia
