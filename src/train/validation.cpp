#include "pluvia/train/validation.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/train/calibration_fit.hpp"
#include "pluvia/train/weighing.hpp"

namespace pluvia {

namespace {

/// Makes n validation samples, one at a time, and calls visit(i, sample) for those of this crew. All crews
/// load theirs together, so that a failure is everybody's. Collective over the world.
template <class Visit>
void for_validation(const Communicator& world, const ProcessGrid& grid, TrainingSamples& samples,
                    std::size_t n, Visit&& visit) {
  const auto crews = static_cast<std::size_t>(grid.crews());
  for (std::size_t round = 0; round < n; round += crews) {
    const std::size_t i = round + static_cast<std::size_t>(grid.crew());
    std::optional<TrainingSample> one;
    together(world, [&] {
      if (i < n) one = samples.validation(i, n);
    });
    if (one) visit(i, *one);
  }
}

} // namespace

Validation validate(const Communicator& world, Trainee& trainee, TrainingSamples& samples, std::size_t most) {
  const std::size_t n = std::min(most, samples.for_validation());
  const ScoredCells& cells = samples.cells();
  const int classes = samples.archive().rule.classes();
  swap_average(trainee.adam, trainee.shards);
  std::vector<FixedSum> losses(2 * n);
  std::vector<double> pairs(n, 0.0);
  for_validation(world, trainee.grid, samples, n, [&](std::size_t i, TrainingSample& one) {
    const Weighing weighing = weigh(trainee.grid.tiles, cells, {&one, 1}, 1);
    pairs[i] = weighing.pairs;
    if (weighing.pairs == 0) return;
    const Target target = target_of(one, cells, weighing, 1.0);
    Tape tape(Tape::Mode::forget);
    losses[2 * i + 1] = ordinal_loss(base_leaf(trainee.tiles, one.climatology, classes), target, tape);
    losses[2 * i] = ordinal_loss(
        predict(trainee.network, tape, trainee.tiles, std::move(one.input), one.base, classes), target, tape);
  });
  swap_average(trainee.adam, trainee.shards);
  all_reduce(world, losses);
  world.all_reduce(std::span(pairs), Reduce::max); // of the replica that worked on it
  Validation sum;
  double all_pairs = 0;
  for (std::size_t i = 0; i < n; ++i) {
    sum.loss += losses[2 * i].value();
    sum.climatology += losses[2 * i + 1].value();
    all_pairs += pairs[i];
  }
  if (all_pairs == 0)
    fail(ExitCode::data, fmt::format("None of {} validation samples has an observed window", n),
         fmt::format("data.validate has {} initial times", samples.for_validation()),
         "Raise train.validate_samples, or choose another range.");
  return {sum.loss / all_pairs, sum.climatology / all_pairs};
}

Calibration fit_calibration(const Communicator& world, const Log& log, Trainee& trainee,
                            TrainingSamples& samples) {
  constexpr std::size_t most = 96; // initial times, evenly taken: their probabilities are kept
  const std::size_t n = std::min(most, samples.for_validation());
  const TrainingArchive& archive = samples.archive();
  const SampleRule& rule = archive.rule;
  const int thresholds = rule.classes() - 1;
  CalibrationFit fit(static_cast<int>(rule.leads.size()), thresholds, cell_areas(samples.cells()));
  for (std::size_t i = 0; i < n; ++i)
    for (const Time lead : rule.leads)
      if (const Time end = samples.validation_init(i, n) + lead;
          hold_window(archive.validate, end, rule.rain.window))
        fit.expect(end);
  Progress progress(log, "calibrate", static_cast<std::int64_t>(n));
  for_validation(world, trainee.grid, samples, n, [&](std::size_t i, TrainingSample& s) {
    Tape tape(Tape::Mode::forget);
    const Var logits =
        predict(trainee.network, tape, trainee.tiles, std::move(s.input), s.base, rule.classes());
    const std::vector<float> p = exceedance_fields(logits->value);
    const std::ptrdiff_t size = thresholds * trainee.tiles.tile(0).cells();
    for (std::size_t l = 0; l < s.observed.size(); ++l) {
      if (s.observed[l].empty()) continue;
      const std::size_t lead = static_cast<std::size_t>(samples.cells().leads.from) + l;
      const auto own = p.begin() + static_cast<std::ptrdiff_t>(l) * size;
      fit.add(static_cast<int>(lead), samples.validation_init(i, n) + rule.leads[lead],
              exceedance(s.base[lead], rule.classes()), {own, own + size}, std::move(s.observed[l]));
    }
    progress.update(
        static_cast<std::int64_t>(std::min(n, i + static_cast<std::size_t>(trainee.grid.crews()))));
  });
  return fit.fit(world);
}

} // namespace pluvia
