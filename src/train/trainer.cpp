#include "pluvia/train/trainer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <fstream>
#include <limits>
#include <numeric>
#include <optional>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/comm/devices.hpp"
#include "pluvia/comm/process_grid.hpp"
#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/comm/stop_signals.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/io/durable.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/model/hourly_climatology.hpp"
#include "pluvia/model/pooled_regression.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "pluvia/train/calibration_fit.hpp"
#include "pluvia/train/device_step.hpp"
#include "pluvia/train/precision.hpp"
#include "pluvia/train/run_folder.hpp"
#include "pluvia/train/step_recorder.hpp"
#include "pluvia/train/training_state.hpp"

namespace pluvia {

namespace {

void require_set(const TimeRange& range, const std::string& key) {
  if (range.from.empty() || range.to.empty())
    fail(ExitCode::usage, key + " is not set", "", "Give both its from and its to.");
}
std::vector<TimeSpan> spans_to_train_on(const DataSettings& data) {
  require_set(data.train, "data.train");
  std::vector<TimeSpan> spans = training_spans(data);
  if (spans.empty())
    fail(ExitCode::usage, "Nothing is left of data.train", "data.validate and data.test cover it",
         "Widen data.train.");
  return spans;
}
std::vector<TimeSpan> spans_to_validate_on(const DataSettings& data) {
  require_set(data.validate, "data.validate");
  return {parse_span(data.validate)};
}

ProcessGrid share_out(const Communicator& world, const Settings& settings) {
  if (settings.train.batch < settings.parallel.replicas)
    fail(ExitCode::usage,
         fmt::format("{} replicas have nothing to do", settings.parallel.replicas - settings.train.batch),
         fmt::format("train.batch is {}, parallel.replicas {}", settings.train.batch,
                     settings.parallel.replicas),
         "Give each replica a sample.");
  const std::int64_t replicas = settings.parallel.replicas, stages = settings.parallel.stages;
  require_stages(settings.model, static_cast<int>(stages), settings.train.batch / replicas, "train.batch");
  require_shares(settings.model, static_cast<int>(settings.parallel.tensor));
  return make_process_grid(world, static_cast<int>(replicas), static_cast<int>(stages),
                           static_cast<int>(settings.parallel.tensor));
}

/// A sample ready for the network.
struct Sample {
  std::size_t number; ///< in its batch
  SampleInput input;
  std::vector<std::vector<float>> climatology;    ///< pi per lead
  std::vector<std::vector<float>> base;           ///< class probabilities per lead that the logits start from
  std::vector<std::vector<std::int8_t>> observed; ///< per lead of this rank; empty outside the range
};

class Training {
public:
  Training(const Communicator& world, const Settings& settings, const Log& log)
      : world_(world), settings_(settings), log_(log), rule_(make_sample_rule(settings)),
        recent_(recent_weather_rule(settings)), train_(spans_to_train_on(settings.data)),
        validate_(spans_to_validate_on(settings.data)), index_(index_archive(world, settings.data.archive)),
        device_(agree_device(world, settings)),
        precision_(agree_precision(world, settings.train.precision, device_)),
        grid_(share_out(world, settings)),
        tiles_(grid_.tiles, layout(settings, index_.grid, grid_.tiles.size(), whole_blocks(settings))),
        network_(make_network(settings, device_)),
        pipeline_(network_, ports_of(settings), of_steps(), grid_.stages,
                  cut_stages(settings.model, ports_of(settings), tiles_.tiling(), grid_.stages.size())),
        parameters_(network_.parameters().all()), shards_(world, parameters_), adam_(make_adam(shards_)),
        sampler_(index_, rule_, tiles_.tile(0),
                 reader_cache_bytes(settings, settings.model.base == "regression")) {
    if (settings.train.exact) network_.parameters().sum_in_blocks();
    if (device_ == Device::gpu) log_.info(tiles_.link_accelerators());
    if (device_ == Device::gpu && shared_) shared_->link_accelerators();
    if (device_ == Device::gpu) prepare_device();
  }

  TrainOutcome run();

private:
  std::optional<Decomposition> share_channels_out() {
    if (grid_.channels.size() == 1) return std::nullopt;
    return std::optional<Decomposition>(std::in_place, grid_.tiles, tiles_.partition(), &grid_.channels);
  }
  Decomposition& of_steps() { return shared_ ? *shared_ : tiles_; }
  void prepare_device();
  void prepare();
  std::vector<float> cell_areas() const;
  /// The leads that this rank works on, counted among all of them.
  Span leads() const { return tiles_.leads(static_cast<Index>(rule_.leads.size())); }
  std::size_t first_lead() const { return static_cast<std::size_t>(leads().from); }
  bool resume(const RunFolder& folder);
  void restore(const TrainingState& state);
  void roll_back(std::int64_t diverged_at);
  /// Draws for a training sample.
  struct Draws {
    DayDraw days; ///< it sees the climatology without its own neighbourhood in time, too
    Disturbance disturbance;
  };
  /// What a stage needs of a sample: the first its input, the last what its logits start from and are held
  /// against.
  struct Needs {
    bool input = true, score = true;
  };
  Sample sample(std::size_t number, Time init, const std::vector<TimeSpan>& spans, Needs needs,
                const Draws* draws = nullptr);
  std::vector<Time> batch_at(std::int64_t step) const;
  Target target_of(const Sample& sample, const std::vector<double>& areas, double pairs) const;
  struct Weighing {
    std::vector<double> areas; ///< global sum of area x validity per (sample, lead)
    double pairs = 0;
  };
  /// Of a batch of `size` samples, of which the ranks of `comm` count some.
  Weighing weigh(const Communicator& comm, std::span<const Sample> samples, std::size_t size) const;
  /// Does a step; on an accelerator it is under way then, as it may be until settle().
  void step(std::int64_t number);
  /// Looks at what the steps came to, and notes it, but for the latest `under_way`. Says which of them found
  /// a loss or gradient that is not finite. Collective over the world.
  std::optional<std::int64_t> settle(std::size_t under_way);
  /// Makes n validation samples, one at a time, and calls visit(i, sample) for those of this crew. All
  /// crews load theirs together, so that a failure is everybody's. Collective over the world.
  template <class Visit> void for_validation(std::size_t n, Visit&& visit) {
    const auto crews = static_cast<std::size_t>(grid_.crews());
    for (std::size_t round = 0; round < n; round += crews) {
      const std::size_t i = round + static_cast<std::size_t>(grid_.crew());
      std::optional<Sample> one;
      together(world_, [&] {
        if (i < n) one = sample(0, validation_init(i, n), validate_, {});
      });
      if (one) visit(i, *one);
    }
  }
  /// The i-th of n initial times taken evenly from the validation range.
  Time validation_init(std::size_t i, std::size_t n) const {
    return validation_inits_[(2 * i + 1) * validation_inits_.size() / (2 * n)];
  }
  struct Validation {
    double loss, climatology;
  };
  Validation validate();
  void calibrate_best();
  TrainingState state() const { return state_of(shards_, adam_, best_, rate_factor_); }
  /// All but what belongs to the network's weights.
  Checkpoint surroundings() const;
  void save(const RunFolder& folder, const std::string& path, const Checkpoint& checkpoint) {
    require_own(world_, folder);
    write_checkpoint(world_, path, checkpoint, tiles_.domain(0), holds_fields() ? tiles_.tile(0) : Rect{});
  }
  /// All crews hold the same fields, and so do all parts of a tile.
  bool holds_fields() const { return grid_.crew() == 0 && tiles_.part() == 0; }
  void note(const nlohmann::ordered_json& line);

  const Communicator& world_;
  const Settings& settings_;
  const Log& log_;
  SampleRule rule_;
  RecentWeatherRule recent_;
  std::vector<TimeSpan> train_, validate_;
  ArchiveIndex index_;
  Device device_;
  Precision precision_; ///< of training steps; validation and calibration are in f32, as forecasts are
  ProcessGrid grid_;
  Decomposition tiles_; ///< of this rank's crew
  /// The same where channels are shared out in training steps.
  std::optional<Decomposition> shared_ = share_channels_out();
  StUnet network_;
  Pipeline pipeline_;
  std::vector<Parameter*> parameters_;
  ParameterShards shards_; ///< over all ranks: every one has all weights
  Adam adam_;
  Sampler sampler_;
  GradientLink gradients_;               ///< of accelerators
  std::optional<DeviceStep> there_;      ///< on an accelerator
  std::optional<StepRecorder> recorder_; ///< gone before the links whose messages it recorded

  std::optional<Climatology> climatology_; ///< of the training range
  HourlyClimatology hourly_;
  std::vector<LogisticRegression> regressions_; ///< by lead; empty: the base is the climatology
  std::optional<ArchiveReader> surroundings_;   ///< of the tile, for the regressions
  Normalisation normalisation_;
  std::vector<Time> inits_, validation_inits_;
  std::vector<float> row_area_;
  BestWeights best_;
  std::string calibration_;
  /// A step that nobody has looked at yet.
  struct Pending {
    std::int64_t number = 0;
    bool observed = true;
    double rate = 0;
    FixedSum loss = {}; ///< as the norm, where they are not on an accelerator
    double norm = 0;
  };
  std::deque<Pending> pending_;
  double loss_ = std::numeric_limits<double>::quiet_NaN(); ///< of the latest step that was looked at
  double rate_factor_ = 1;   ///< of the learning rate; less after training went back
  TrainingState last_saved_; ///< before the first save the start
  std::ofstream log_file_;
};

void Training::prepare_device() {
  gradients_ = link_gradients(world_, grid_.stages.size());
  if (!gradients_.said.empty()) log_.info(gradients_.said);
  if (gradients_.link) shards_.link_accelerators();
  there_.emplace();
  if (!settings_.train.graph) return;
  const std::string obstacle =
      recording_obstacle(settings_, of_steps(), world_, world_.size() == 1 || gradients_.link != nullptr);
  if (obstacle.empty()) recorder_.emplace();
  log_.info(obstacle.empty() ? "steps are recorded once and replayed"
                             : "steps cannot be recorded: " + obstacle);
}

void Training::prepare() {
  if (train_ != std::vector{parse_span(settings_.data.train)})
    log_.info("data.train is used without what it shares with data.validate and data.test");
  const Rect tile = tiles_.tile(0), domain = tiles_.domain(0);
  // Of the training range every rank reads what it shares with all that hold its tile.
  const Communicator same_tile =
      world_.split(grid_.tiles.rank() / tiles_.partition().time.parts(), world_.rank());
  const Share share{same_tile.rank(), same_tile.size()};
  normalisation_ = sampler_.measure(world_, train_, share);
  const std::vector<float> areas = row_areas(index_.grid);
  row_area_.assign(areas.begin() + tile.y0, areas.begin() + tile.y1);
  static_assert(Climatology::smoothing_radius >= RecentWeather::reach);
  const bool regression = settings_.model.base == "regression";
  ArchiveReader wide(index_, Climatology::grown(tile, domain),
                     regression ? reader_cache_bytes(settings_, true) : std::size_t{64} << 20);
  const Climatology::SharedReading reading{same_tile, world_};
  climatology_ =
      Climatology::count(tiles_.space(), wide, tile, rule_.rain, rule_.thresholds_mm, train_, &reading);
  hourly_ = finish(*climatology_);
  if (regression) {
    regressions_ =
        fit_pooled_regression(world_, pooled_rows(world_, log_, wide, recent_, *climatology_,
                                                  settings_.target.leads_hours, cell_areas(), train_, share));
    surroundings_ = std::move(wide);
  }
  // Samples need their history in the archive; what is missing inside it is a missing frame.
  const auto with_history = [&](std::vector<Time> times) {
    std::erase_if(times,
                  [&](Time t) { return t < index_.frames.front().time || t > index_.frames.back().time; });
    return times;
  };
  inits_ = with_history(initial_times(rule_, train_));
  validation_inits_ = with_history(initial_times(rule_, validate_));
  if (inits_.empty() || validation_inits_.empty())
    fail(ExitCode::data, inits_.empty() ? "data.train holds no sample" : "data.validate holds no sample",
         "the archive runs from " + format_time(index_.frames.front().time) + " to " +
             format_time(index_.frames.back().time),
         "Choose ranges that the archive covers.");
}

/// Of the tile, [height x width].
std::vector<float> Training::cell_areas() const {
  std::vector<float> out;
  for (float row : row_area_) out.insert(out.end(), static_cast<std::size_t>(tiles_.tile(0).width()), row);
  return out;
}

Sample Training::sample(std::size_t number, Time init, const std::vector<TimeSpan>& spans, Needs needs,
                        const Draws* draws) {
  Sample s;
  s.number = number;
  if (!needs.input && !needs.score) return s;
  for (Time lead : rule_.leads)
    s.climatology.push_back(draws ? climatology_->probabilities_without(init + lead, draws->days)
                                  : hourly_.at(init + lead));
  const Span own = needs.score ? leads() : Span{};
  for (Index lead = own.from; lead < own.to; ++lead) {
    const Time end = init + rule_.leads[static_cast<std::size_t>(lead)];
    s.observed.push_back(hold_window(spans, end, rule_.rain.window) ? sampler_.observed(end)
                                                                    : std::vector<std::int8_t>{});
  }
  s.base = regressions_.empty()
               ? s.climatology
               : regression_base(regressions_, recent_weather(*surroundings_, recent_, tiles_.tile(0), init),
                                 s.climatology);
  if (!needs.input) return s;
  s.input = sampler_.input(init, normalisation_, s.base, network_.input_margin(),
                           tiles_.frames(static_cast<Index>(rule_.history)),
                           draws ? draws->disturbance : Disturbance{});
  return s;
}

std::vector<Time> Training::batch_at(std::int64_t step) const {
  const auto n = static_cast<std::int64_t>(inits_.size());
  const auto seed = static_cast<std::uint64_t>(settings_.train.seed);
  std::vector<Time> batch;
  std::vector<std::size_t> order(inits_.size());
  std::int64_t ordered_epoch = -1;
  for (std::int64_t i = step * settings_.train.batch; i < (step + 1) * settings_.train.batch; ++i) {
    const std::int64_t epoch = i / n;
    if (epoch != ordered_epoch) {
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::ranges::sort(order, {}, [&](std::size_t k) {
        return std::pair(random_bits(seed, RandomPurpose::shuffle, k, static_cast<std::uint64_t>(epoch)), k);
      });
      ordered_epoch = epoch;
    }
    batch.push_back(inits_[order[static_cast<std::size_t>(i % n)]]);
  }
  return batch;
}

Training::Weighing Training::weigh(const Communicator& comm, std::span<const Sample> samples,
                                   std::size_t size) const {
  const Rect tile = tiles_.tile(0);
  const std::size_t leads = rule_.leads.size();
  std::vector<FixedSum> areas(size * leads);
  for (const Sample& s : samples)
    for (std::size_t l = 0; l < s.observed.size(); ++l)
      for (std::size_t i = 0; i < s.observed[l].size(); ++i)
        if (s.observed[l][i] >= 0)
          areas[s.number * leads + first_lead() + l].add(
              row_area_[i / static_cast<std::size_t>(tile.width())]);
  all_reduce(comm, areas);
  Weighing out;
  for (const FixedSum& area : areas) out.areas.push_back(area.value());
  for (double area : out.areas) out.pairs += area > 0 ? 1 : 0;
  return out;
}

Target Training::target_of(const Sample& sample, const std::vector<double>& areas, double pairs) const {
  const Rect tile = tiles_.tile(0);
  const std::size_t leads = rule_.leads.size(), cells = static_cast<std::size_t>(tile.cells());
  Target target;
  for (std::size_t l = 0; l < sample.observed.size(); ++l) {
    const auto& observed = sample.observed[l];
    if (observed.empty())
      target.classes.insert(target.classes.end(), cells, std::int8_t{-1});
    else
      target.classes.insert(target.classes.end(), observed.begin(), observed.end());
    const double area = areas[sample.number * leads + first_lead() + l];
    for (float row : row_area_)
      target.weights.push_back(area > 0 ? static_cast<float>(row / (pairs * area)) : 0.0F);
  }
  return target;
}

void Training::step(std::int64_t number) {
  const auto seed = static_cast<std::uint64_t>(settings_.train.seed),
             first = static_cast<std::uint64_t>(number * settings_.train.batch); // of the batch's samples
  std::vector<Sample> samples;
  together(world_, [&] {
    const std::vector<Time> batch = batch_at(number);
    for (std::size_t b = 0; b < batch.size(); ++b) {
      if (!grid_.works_on(b)) continue;
      const TrainSettings& t = settings_.train;
      const Draws draws{{t.climatology_dropout, seed, first + b},
                        {t.frame_dropout, t.brightness_jitter_kelvin, seed, first + b}};
      samples.push_back(sample(b, batch[b], train_, {pipeline_.first(), pipeline_.last()}, &draws));
    }
  });
  const Weighing weighing = weigh(world_, grid_.counts() ? samples : std::span<const Sample>{},
                                  static_cast<std::size_t>(settings_.train.batch));
  if (weighing.pairs == 0) { // nothing observed in the whole batch: nothing to learn
    ++adam_.step;
    pending_.push_back({number, false});
    return;
  }
  const double rate = rate_factor_ * learning_rate_at(number, settings_.train.learning_rate,
                                                      settings_.train.warmup, settings_.train.steps);
  Pending result{number, true, rate};
  std::optional<GradientSync> sync;
  const auto nth = [&](int i) -> Sample& { return samples[static_cast<std::size_t>(i)]; };
  Pipeline::Batch steps{.size = static_cast<int>(samples.size())};
  steps.tape = [&] {
    return std::make_unique<Tape>(Tape::Mode::record, precision_, keep_of(settings_.train), nullptr,
                                  blocks_of(settings_, of_steps()));
  };
  steps.load = [&](int i) {
    Sample& s = nth(i);
    if (there_) {
      const auto n = static_cast<std::size_t>(i);
      return Pipeline::Sample{
          there_->input(n), there_->base(n), {settings_.train.dropout, seed, 0, there_->sample(n)}};
    }
    Pipeline::Sample out{.dropout = {settings_.train.dropout, seed, first + s.number}};
    if (pipeline_.first()) out.input = Tape::leaf(std::move(s.input.features));
    if (pipeline_.last()) out.base = base_leaf(tiles_, s.base, rule_.classes());
    return out;
  };
  steps.score = [&](int i, const Var& logits, const Tape& tape) {
    if (there_)
      return ordinal_loss(logits, there_->target(static_cast<std::size_t>(i)), tape, there_->loss());
    const FixedSum loss = ordinal_loss(logits, target_of(nth(i), weighing.areas, weighing.pairs), tape);
    if (grid_.counts()) result.loss.add(loss);
  };
  steps.whole = [&](auto whole) { sync->complete(whole); };
  const auto gradients = [&] {
    network_.parameters().zero_gradients();
    sync.emplace(world_, parameters_, gradients_.link.get());
    pipeline_.run(steps);
    sync->finish();
  };
  if (!there_) {
    gradients();
    all_reduce(world_, std::span(&result.loss, 1));
    result.norm = gradient_norm(parameters_);
    if (std::isfinite(result.loss.value()) && std::isfinite(result.norm))
      update(adam_, shards_, rate, settings_.train.weight_decay,
             std::min(1.0, settings_.train.clip_norm / result.norm));
    pending_.push_back(result);
    return;
  }
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const Sample& s = samples[i];
    Tensor base;
    Target target;
    if (pipeline_.last()) {
      base = std::move(base_leaf(tiles_, s.base, rule_.classes())->value);
      target = target_of(s, weighing.areas, weighing.pairs);
    }
    there_->send(i, first + s.number, s.input.features, base, target);
  }
  send_rates(adam_, rate, settings_.train.weight_decay);
  const auto work = [&] {
    there_->clear();
    gradients();
    update_there(adam_, shards_, settings_.train.clip_norm, there_->norm());
  };
  if (recorder_) {
    std::vector<const void*> key = there_->places();
    for (const Parameter* p : parameters_) key.push_back(p->value.storage().data());
    recorder_->run(key, work);
  } else {
    work();
  }
  there_->post();
  pending_.push_back(result);
}

std::optional<std::int64_t> Training::settle(std::size_t under_way) {
  while (pending_.size() > under_way) {
    Pending step = pending_.front();
    pending_.pop_front();
    if (!step.observed) {
      loss_ = std::numeric_limits<double>::quiet_NaN();
      note({{"step", step.number + 1}, {"observed", false}});
      continue;
    }
    if (there_) {
      const DeviceStep::Report report = there_->take();
      if (grid_.counts()) step.loss = report.loss;
      step.norm = report.norm;
      all_reduce(world_, std::span(&step.loss, 1));
    }
    loss_ = step.loss.value();
    if (!std::isfinite(loss_) || !std::isfinite(step.norm)) {
      for (const Pending& later : pending_)
        if (there_ && later.observed) there_->take();
      pending_.clear();
      return step.number + 1;
    }
    note({{"step", step.number + 1},
          {"loss", loss_},
          {"learning_rate", step.rate},
          {"gradient_norm", step.norm}});
  }
  return std::nullopt;
}

Training::Validation Training::validate() {
  const auto wanted = static_cast<std::size_t>(settings_.train.validate_samples);
  const std::size_t n = std::min(wanted, validation_inits_.size());
  swap_average(adam_, shards_);
  std::vector<FixedSum> losses(2 * n);
  std::vector<double> pairs(n, 0.0);
  for_validation(n, [&](std::size_t i, Sample& one) {
    const Weighing weighing = weigh(grid_.tiles, {&one, 1}, 1);
    pairs[i] = weighing.pairs;
    if (weighing.pairs == 0) return;
    const Target target = target_of(one, weighing.areas, 1.0);
    Tape tape(Tape::Mode::forget);
    const Var climatology =
        Tape::leaf(log_base(std::span(one.climatology).subspan(first_lead(), one.observed.size()),
                            tiles_.tile(0), rule_.classes()));
    losses[2 * i + 1] = ordinal_loss(climatology, target, tape);
    losses[2 * i] = ordinal_loss(
        predict(network_, tape, tiles_, std::move(one.input), one.base, rule_.classes()), target, tape);
  });
  swap_average(adam_, shards_);
  all_reduce(world_, losses);
  world_.all_reduce(std::span(pairs), Reduce::max); // of the replica that worked on it
  Validation sum{0, 0};
  double all_pairs = 0;
  for (std::size_t i = 0; i < n; ++i) {
    sum.loss += losses[2 * i].value();
    sum.climatology += losses[2 * i + 1].value();
    all_pairs += pairs[i];
  }
  if (all_pairs == 0)
    fail(ExitCode::data, "data.validate holds no observed window", "every target is missing",
         "Choose another range.");
  return {sum.loss / all_pairs, sum.climatology / all_pairs};
}

/// Fits the calibration of the best weights on validation forecasts.
void Training::calibrate_best() {
  shards_.set_values(best_.values);
  constexpr std::size_t most = 96; // initial times, evenly taken: their probabilities are kept
  const std::size_t n = std::min(most, validation_inits_.size());
  const int thresholds = rule_.classes() - 1;
  CalibrationFit calibration(static_cast<int>(rule_.leads.size()), thresholds, cell_areas());
  for (std::size_t i = 0; i < n; ++i)
    for (const Time lead : rule_.leads)
      if (const Time end = validation_init(i, n) + lead; hold_window(validate_, end, rule_.rain.window))
        calibration.expect(end);
  Progress progress(log_, "calibrate", static_cast<std::int64_t>(n));
  for_validation(n, [&](std::size_t i, Sample& s) {
    Tape tape(Tape::Mode::forget);
    const Var logits = predict(network_, tape, tiles_, std::move(s.input), s.base, rule_.classes());
    const std::vector<float> p = exceedance_fields(logits->value);
    const std::ptrdiff_t size = thresholds * tiles_.tile(0).cells();
    for (std::size_t l = 0; l < s.observed.size(); ++l) {
      if (s.observed[l].empty()) continue;
      const std::size_t lead = first_lead() + l;
      const auto own = p.begin() + static_cast<std::ptrdiff_t>(l) * size;
      calibration.add(static_cast<int>(lead), validation_init(i, n) + rule_.leads[lead],
                      exceedance(s.base[lead], rule_.classes()), {own, own + size}, std::move(s.observed[l]));
    }
    progress.update(static_cast<std::int64_t>(std::min(n, i + static_cast<std::size_t>(grid_.crews()))));
  });
  calibration_ = to_json(calibration.fit(world_));
}

Checkpoint Training::surroundings() const {
  Checkpoint c;
  c.configuration = resolved_yaml(settings_);
  if (!calibration_.empty()) c.texts["calibration"] = calibration_;
  if (!regressions_.empty()) c.texts["regression"] = to_json(regressions_);
  const auto n = static_cast<std::int64_t>(normalisation_.mean.size());
  c.arrays["normalisation/mean"] = {{n}, normalisation_.mean};
  c.arrays["normalisation/deviation"] = {{n}, normalisation_.deviation};
  c.fields["climatology"] = to_field(hourly_);
  if (!holds_fields()) c.fields["climatology"].values.clear();
  return c;
}

bool Training::resume(const RunFolder& folder) {
  const auto path = starting_checkpoint(world_, log_, folder, settings_.train.from);
  if (!path) {
    if (!settings_.train.from.empty())
      log_.info("no checkpoint in " + settings_.train.output + " yet: starting anew");
    return false;
  }
  const Checkpoint c = read_checkpoint(world_, *path, tiles_.tile(0), nullptr, own_runs(shards_));
  require_same_model(parse_settings(c.configuration, *path, {}), *path, settings_, "train anew");
  restore(load_state(c, shards_, *path));
  log_.info(fmt::format("going on from {} at step {}{}", *path, c.step,
                        rate_factor_ < 1 ? fmt::format(" with {} of the learning rate", rate_factor_) : ""));
  return true;
}

void Training::restore(const TrainingState& state) {
  set_state(state, shards_, adam_);
  best_ = state.best;
  rate_factor_ = state.rate_factor;
}

/// Back to what was saved last, from where on steps are smaller; that helps once or not at all.
void Training::roll_back(std::int64_t diverged_at) {
  const std::string problem = "Training diverged at step " + std::to_string(diverged_at);
  if (rate_factor_ < 1)
    fail(ExitCode::failed, problem,
         fmt::format("loss or gradient is not finite, with {} of the learning rate too", rate_factor_),
         "Lower train.learning_rate and go on with train.from=latest.");
  restore(last_saved_);
  rate_factor_ = 0.5;
  log_.warn(
      fmt::format("{} (loss or gradient is not finite): back to step {}, on with half the learning rate",
                  problem, last_saved_.step));
  note({{"step", diverged_at}, {"rolled_back_to", last_saved_.step}});
}

void Training::note(const nlohmann::ordered_json& line) {
  if (log_file_.is_open()) log_file_ << line.dump() << std::endl;
}

TrainOutcome Training::run() {
  const StopSignals signals;
  const RunFolder folder = open_run_folder(world_, log_, settings_.train.output);
  const bool resumed = resume(folder);
  prepare();
  together(world_, [&] {
    if (world_.rank() == 0) write_whole(folder.configuration(), resolved_yaml(settings_));
  });
  if (world_.rank() == 0) log_file_.open(folder.log(), resumed ? std::ios::app : std::ios::trunc);
  log_.info(fmt::format(
      "{} parameters, {} training samples, {} validation samples, {}{}, {}{}, {}",
      network_.parameters().size(), inits_.size(), validation_inits_.size(),
      (grid_.replicas > 1 ? fmt::format("{} replicas of ", grid_.replicas) : "") +
          (grid_.stages.size() > 1 ? fmt::format("{} stages of ", grid_.stages.size()) : "") +
          (grid_.channels.size() > 1 ? fmt::format("{} shares of the channels of ", grid_.channels.size())
                                     : ""),
      describe(tiles_.partition()), name_of(precision_), settings_.train.exact ? ", exact" : "",
      describe_devices(world_, device_)));
  const auto consider = [&](std::int64_t at_step) {
    const Validation v = validate();
    note({{"step", at_step}, {"validation_loss", v.loss}, {"climatology_loss", v.climatology}});
    if (v.loss < best_.loss) best_ = {v.loss, at_step, values_of(adam_.average)};
    return v;
  };
  const TrainSettings& t = settings_.train;
  const auto require_loss = [&](bool finite) {
    if (!finite)
      fail(ExitCode::failed, "Validation has no finite loss",
           "a forecast of data.validate is not a number somewhere",
           "Look for values out of range in data.archive, and at losses in " + folder.log() + ".");
  };
  Validation last = adam_.step == 0 ? consider(0) : validate();
  require_loss(std::isfinite(last.loss));
  last_saved_ = state();
  {
    Progress progress(log_, "train", t.steps);
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t first = adam_.step;
    for (std::int64_t n = first; n < t.steps; n = adam_.step) {
      step(n);
      const bool last_step = n + 1 == t.steps, looks = (n + 1) % t.validate_every == 0 || last_step,
                 saves = (n + 1) % t.checkpoint_every == 0 || last_step;
      // An accelerator is given its next step before anybody looks at what it found in this one.
      const std::size_t under_way = there_ && !looks && !saves ? 1 : 0;
      if (const auto diverged = settle(under_way)) {
        roll_back(*diverged);
        continue;
      }
      if (looks) last = consider(n + 1);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                             static_cast<double>(n + 1 - first);
      progress.update(n + 1,
                      fmt::format("loss {:.4f}, validation {:.4f} (climatology {:.4f}), {:.2f} s a step",
                                  loss_, last.loss, last.climatology, seconds));
      const bool stop = signals.agreed(world_);
      if (const auto diverged = settle(stop ? 0 : under_way)) {
        roll_back(*diverged);
        continue;
      }
      if (saves || stop) {
        last_saved_ = {}; // first, for memory holds one of them
        last_saved_ = state();
        Checkpoint checkpoint = surroundings();
        store_state(last_saved_, shards_, checkpoint);
        save(folder, folder.at_step(n + 1), checkpoint);
        prune_checkpoints(world_, folder, 2);
      }
      if (stop && !last_step) {
        log_.info(fmt::format("asked to stop: saved at step {}; go on with train.from=latest", n + 1));
        return TrainOutcome::stopped;
      }
    }
  }
  require_loss(best_.known());
  calibrate_best();
  // The best weights stand where forecasts look for them; a checkpoint to forecast with needs no optimiser.
  Checkpoint best = surroundings();
  store_best(best_, rate_factor_, shards_, best);
  save(folder, folder.best(), best);
  log_.info(fmt::format("best at step {}: validation loss {:.4f}, climatology {:.4f}; {}", best_.step,
                        best_.loss, last.climatology, folder.best()));
  return TrainOutcome::finished;
}

} // namespace

TrainOutcome run_training(const Communicator& world, const Settings& settings, const Log& log) {
  return Training(world, settings, log).run();
}

} // namespace pluvia
