#include "pluvia/train/training_samples.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/model/pooled_regression.hpp"

namespace pluvia {

namespace {

ScoredCells scored_cells(const TrainingArchive& archive, const Decomposition& tiles) {
  const Rect tile = tiles.tile(0);
  const auto leads = static_cast<Index>(archive.rule.leads.size());
  const std::vector<float> areas = row_areas(archive.index.grid);
  return {tile, {areas.begin() + tile.y0, areas.begin() + tile.y1}, tiles.leads(leads), leads};
}

} // namespace

TrainingSamples::TrainingSamples(const Communicator& world, const Settings& settings, const Log& log,
                                 const TrainingArchive& archive, const Trainee& trainee)
    : settings_(settings.train), archive_(archive), trainee_(trainee),
      cells_(scored_cells(archive, trainee.tiles)),
      sampler_(archive.index, archive.rule, cells_.tile,
               reader_cache_bytes(settings, settings.model.base == "regression")) {
  if (archive.train != std::vector{parse_span(settings.data.train)})
    log.info("data.train is used without what it shares with data.validate and data.test");
  // Of the training range every rank reads what it shares with all that hold its tile.
  const Decomposition& tiles = trainee.tiles;
  const Communicator same_tile =
      world.split(tiles.comm().rank() / tiles.partition().time.parts(), world.rank());
  const Share share{same_tile.rank(), same_tile.size()};
  normalisation_ = sampler_.measure(world, archive.train, share);
  static_assert(Climatology::smoothing_radius >= RecentWeather::reach);
  const bool regression = settings.model.base == "regression";
  ArchiveReader wide(archive.index, Climatology::grown(cells_.tile, tiles.domain(0)),
                     regression ? reader_cache_bytes(settings, true) : std::size_t{64} << 20);
  const Climatology::SharedReading reading{same_tile, world};
  climatology_ = Climatology::count(tiles.space(), wide, cells_.tile, archive.rule.rain,
                                    archive.rule.thresholds_mm, archive.train, &reading);
  hourly_ = finish(climatology_);
  if (regression) {
    regressions_ = fit_pooled_regression(world, pooled_rows(world, log, wide, archive.recent, climatology_,
                                                            settings.target.leads_hours, cell_areas(cells_),
                                                            archive.train, share));
    surroundings_ = std::move(wide);
  }
  inits_ = with_history(archive.train);
  validation_inits_ = with_history(archive.validate);
  const std::vector<ArchiveIndex::Frame>& frames = archive.index.frames;
  if (inits_.empty() || validation_inits_.empty())
    fail(ExitCode::data, inits_.empty() ? "data.train holds no sample" : "data.validate holds no sample",
         "the archive runs from " + format_time(frames.front().time) + " to " +
             format_time(frames.back().time),
         "Choose ranges that the archive covers.");
}

/// Samples need their history in the archive; what is missing inside it is a missing frame.
std::vector<Time> TrainingSamples::with_history(std::span<const TimeSpan> spans) const {
  const std::vector<ArchiveIndex::Frame>& frames = archive_.index.frames;
  std::vector<Time> times = initial_times(archive_.rule, spans);
  std::erase_if(times, [&](Time t) { return t < frames.front().time || t > frames.back().time; });
  return times;
}

std::vector<Time> TrainingSamples::batch_at(std::int64_t step) const {
  const auto n = static_cast<std::int64_t>(inits_.size());
  const auto seed = static_cast<std::uint64_t>(settings_.seed);
  std::vector<Time> batch;
  std::vector<std::size_t> order(inits_.size());
  std::int64_t ordered_epoch = -1;
  for (std::int64_t i = step * settings_.batch; i < (step + 1) * settings_.batch; ++i) {
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

TrainingSample TrainingSamples::sample(Time init, std::span<const TimeSpan> spans, Needs needs,
                                       const Draws* draws) {
  TrainingSample s;
  if (!needs.input && !needs.score) return s;
  const SampleRule& rule = archive_.rule;
  for (Time lead : rule.leads)
    s.climatology.push_back(draws ? climatology_.probabilities_without(init + lead, draws->days)
                                  : hourly_.at(init + lead));
  const Span own = needs.score ? cells_.leads : Span{};
  for (Index lead = own.from; lead < own.to; ++lead) {
    const Time end = init + rule.leads[static_cast<std::size_t>(lead)];
    s.observed.push_back(hold_window(spans, end, rule.rain.window) ? sampler_.observed(end)
                                                                   : std::vector<std::int8_t>{});
  }
  s.base =
      regressions_.empty()
          ? s.climatology
          : regression_base(regressions_, recent_weather(*surroundings_, archive_.recent, cells_.tile, init),
                            s.climatology);
  if (!needs.input) return s;
  s.input = sampler_.input(init, normalisation_, s.base, trainee_.network.input_margin(),
                           trainee_.tiles.frames(static_cast<Index>(rule.history)),
                           draws ? draws->disturbance : Disturbance{});
  return s;
}

std::vector<TrainingSample> TrainingSamples::batch(std::int64_t step, Needs needs) {
  const auto seed = static_cast<std::uint64_t>(settings_.seed),
             first = static_cast<std::uint64_t>(step * settings_.batch); // of the batch's samples
  const std::vector<Time> inits = batch_at(step);
  std::vector<TrainingSample> out;
  for (std::size_t b = 0; b < inits.size(); ++b) {
    if (!trainee_.grid.works_on(b)) continue;
    const std::uint64_t drawn = first + b;
    const Draws draws{{settings_.climatology_dropout, seed, drawn},
                      {settings_.frame_dropout, settings_.brightness_jitter_kelvin, seed, drawn}};
    out.push_back(sample(inits[b], archive_.train, needs, &draws));
    out.back().number = b;
    out.back().drawn = drawn;
  }
  return out;
}

TrainingSample TrainingSamples::validation(std::size_t i, std::size_t n) {
  return sample(validation_init(i, n), archive_.validate, {}, nullptr);
}

void TrainingSamples::store(Checkpoint& checkpoint) const {
  if (!regressions_.empty()) checkpoint.texts["regression"] = to_json(regressions_);
  const auto n = static_cast<std::int64_t>(normalisation_.mean.size());
  checkpoint.arrays["normalisation/mean"] = {{n}, normalisation_.mean};
  checkpoint.arrays["normalisation/deviation"] = {{n}, normalisation_.deviation};
  checkpoint.fields["climatology"] = to_field(hourly_);
  if (!trainee_.writes_fields()) checkpoint.fields["climatology"].values.clear();
}

} // namespace pluvia
