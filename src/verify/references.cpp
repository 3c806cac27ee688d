#include "pluvia/verify/references.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pluvia/comm/fixed_sum.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/verify/box_mean.hpp"

namespace pluvia {

namespace {

constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
constexpr Time hour = 3600;
constexpr double rows_wanted = 100000;
constexpr std::size_t times_wanted = 240;
constexpr double prior_weight = 5; // cells of the mean frequency added to each persisted class

/// The newest frame time that has arrived by `init`.
Time newest(const ReferenceRules& rules, const ArchiveIndex& index, const std::string& variable, Time init) {
  const auto found = rules.latency_minutes.find(variable);
  const Time late =
      found == rules.latency_minutes.end() ? 0 : static_cast<Time>(std::ceil(found->second * 60));
  return init - (late + index.step - 1) / index.step * index.step;
}

} // namespace

std::string brightness_predictor(const std::vector<std::string>& predictors, const std::string& target) {
  for (const std::string& name : predictors)
    if (name == "tb_min") return name;
  for (const std::string& name : predictors)
    if (name != target) return name;
  return {};
}

ReferenceInputs reference_inputs(ArchiveReader& reader, const ReferenceRules& rules, const Rect& tile,
                                 Time init) {
  const Rect held = reader.rect();
  const auto cells = static_cast<std::size_t>(tile.cells());
  ReferenceInputs out{std::vector<std::int8_t>(cells),
                      std::vector<float>(cells * ReferenceInputs::count, unknown)};
  const auto put = [&](int column, const std::vector<float>& values) {
    for (std::size_t cell = 0; cell < cells; ++cell)
      out.predictors[cell * ReferenceInputs::count + static_cast<std::size_t>(column)] = values[cell];
  };
  if (!rules.brightness.empty()) {
    const Time now = newest(rules, reader.index(), rules.brightness, init);
    std::vector<float> middle;
    if (const auto field = reader.read(rules.brightness, now); !field.empty())
      for (int i = 0; i < 3; ++i) {
        const auto mean = box_mean(field, held, tile, ReferenceInputs::boxes[static_cast<std::size_t>(i)]);
        put(i, mean);
        if (i == 1) middle = mean;
      }
    const auto before = reader.read(rules.brightness, now - 3 * hour);
    if (!middle.empty() && !before.empty()) {
      const auto earlier = box_mean(before, held, tile, ReferenceInputs::boxes[1]);
      for (std::size_t cell = 0; cell < cells; ++cell) middle[cell] -= earlier[cell];
      put(6, middle);
    }
  }
  std::vector<float> rain =
      accumulate(reader, rules.rain, newest(rules, reader.index(), rules.rain.variable, init));
  for (Index y = tile.y0; y < tile.y1; ++y)
    for (Index x = tile.x0; x < tile.x1; ++x)
      out.persisted[static_cast<std::size_t>((y - tile.y0) * tile.width() + x - tile.x0)] =
          static_cast<std::int8_t>(
              amount_class(rain[static_cast<std::size_t>((y - held.y0) * held.width() + x - held.x0)],
                           rules.thresholds_mm));
  for (float& amount : rain)
    amount = std::log1p(std::max(amount, 0.0F)) + (std::isnan(amount) ? amount : 0.0F);
  for (int i = 0; i < 3; ++i)
    put(3 + i, box_mean(rain, held, tile, ReferenceInputs::boxes[static_cast<std::size_t>(i)]));
  return out;
}

const std::vector<std::string>& References::names() {
  static const std::vector<std::string> names{"climatology", "persistence", "calibrated_persistence",
                                              "logistic_regression"};
  return names;
}

References References::fit(const Communicator& comm, const Log& log, ArchiveReader& reader,
                           const ReferenceRules& rules, const Climatology& climatology,
                           const std::vector<double>& leads_hours, std::span<const float> area, Time from,
                           Time to) {
  const ArchiveIndex& index = reader.index();
  const Rect tile = climatology.tile(), held = reader.rect();
  const int leads = static_cast<int>(leads_hours.size()),
            thresholds = static_cast<int>(rules.thresholds_mm.size());
  const auto lead_seconds = [&](std::size_t lead) {
    return static_cast<Time>(std::lround(leads_hours[lead] * 3600));
  };
  const auto in_range = [&](Time end) { return end - rules.rain.window >= from && end < to; };

  // Initial times at whole hours with at least one window in the range and a frame of their own; an odd
  // stride visits every hour of the day.
  std::vector<Time> inits;
  if (!index.frames.empty()) {
    const Time first = (index.frames.front().time + hour - 1) / hour * hour;
    for (Time init = first; init <= index.frames.back().time; init += hour) {
      bool used = false;
      for (std::size_t lead = 0; lead < leads_hours.size(); ++lead)
        used = used || in_range(init + lead_seconds(lead));
      if (used && find_frame(index, init)) inits.push_back(init);
    }
  }
  std::size_t stride = (inits.size() + times_wanted - 1) / times_wanted;
  if (stride > 1) stride |= 1;
  const auto times =
      stride == 0 ? 0.0 : std::ceil(static_cast<double>(inits.size()) / static_cast<double>(stride));
  const double share =
      rows_wanted / std::max(1.0, times * static_cast<double>(index.grid.ny() * index.grid.nx()));

  std::vector<RegressionRows> rows(leads_hours.size(), {ReferenceInputs::count, thresholds, {}, {}, {}, {}});
  std::vector<std::vector<std::int8_t>> persisted(leads_hours.size());
  together(comm, [&] {
    Progress progress(log, "fitting the references", static_cast<std::int64_t>(inits.size()));
    for (std::size_t i = 0; i < inits.size(); i += stride) {
      const Time init = inits[i];
      std::vector<std::size_t> chosen;
      for (Index y = tile.y0; y < tile.y1; ++y)
        for (Index x = tile.x0; x < tile.x1; ++x)
          if (random_uniform(1, RandomPurpose::subsample, static_cast<std::uint64_t>(y * index.grid.nx() + x),
                             static_cast<std::uint64_t>(init)) < share)
            chosen.push_back(static_cast<std::size_t>((y - tile.y0) * tile.width() + x - tile.x0));
      if (chosen.empty()) continue;
      const ReferenceInputs inputs = reference_inputs(reader, rules, tile, init);
      for (std::size_t lead = 0; lead < leads_hours.size(); ++lead) {
        const Time end = init + lead_seconds(lead);
        if (!in_range(end)) continue;
        const std::vector<float> amount = accumulate(reader, rules.rain, end);
        const std::vector<float> climate =
            exceedance(climatology.probabilities_without(end), climatology.classes());
        RegressionRows& into = rows[lead];
        for (const std::size_t cell : chosen) {
          const Index y = tile.y0 + static_cast<Index>(cell) / tile.width(),
                      x = tile.x0 + static_cast<Index>(cell) % tile.width();
          const int k =
              amount_class(amount[static_cast<std::size_t>((y - held.y0) * held.width() + x - held.x0)],
                           rules.thresholds_mm);
          if (k < 0) continue;
          const float* predictors = inputs.predictors.data() + cell * ReferenceInputs::count;
          into.x.insert(into.x.end(), predictors, predictors + ReferenceInputs::count);
          for (int t = 0; t < thresholds; ++t)
            into.climatology.push_back(
                climate[static_cast<std::size_t>(t) * static_cast<std::size_t>(tile.cells()) + cell]);
          into.observed.push_back(static_cast<std::int8_t>(k));
          into.weight.push_back(area[cell]);
          persisted[lead].push_back(inputs.persisted[cell]);
        }
      }
      progress.update(static_cast<std::int64_t>(i + stride));
    }
  });
  std::vector<std::int64_t> counted(leads_hours.size());
  for (std::size_t lead = 0; lead < counted.size(); ++lead)
    counted[lead] = static_cast<std::int64_t>(rows[lead].observed.size());
  comm.all_reduce(counted, Reduce::sum);
  if (std::all_of(counted.begin(), counted.end(), [](auto n) { return n == 0; }))
    fail(ExitCode::data, "The reference forecasts cannot be fitted",
         "no initial time of the training range has a complete window", "Widen data.train.");

  References out;
  const int classes = thresholds + 1;
  out.persistence_ = {leads, classes, {}};
  for (std::size_t lead = 0; lead < rows.size(); ++lead) {
    out.regressions_.push_back(fit_logistic_regression(comm, rows[lead]));
    // Column 0: weight; column k: weight of amounts that reach threshold k - 1. The last row: whatever was
    // before.
    const auto n = static_cast<std::size_t>(classes);
    std::vector<FixedSum> sums((n + 1) * n);
    for (std::size_t row = 0; row < rows[lead].observed.size(); ++row)
      for (const int before : {static_cast<int>(persisted[lead][row]), classes}) {
        if (before < 0) continue;
        for (int k = 0; k <= rows[lead].observed[row]; ++k)
          sums[static_cast<std::size_t>(before) * n + static_cast<std::size_t>(k)].add(
              rows[lead].weight[row]);
      }
    all_reduce(comm, sums);
    const double all = sums[n * n].value();
    for (std::size_t before = 0; before < n; ++before)
      for (std::size_t k = 1; k < n; ++k) {
        const double mean = all > 0 ? sums[n * n + k].value() / all : 0;
        out.persistence_.exceedance.push_back((sums[before * n + k].value() + prior_weight * mean) /
                                              (sums[before * n].value() + prior_weight));
      }
  }
  return out;
}

std::vector<std::vector<float>> References::forecast(int lead, const ReferenceInputs& inputs,
                                                     const std::vector<float>& climatology) const {
  const std::size_t cells = inputs.persisted.size();
  const auto thresholds = static_cast<std::size_t>(persistence_.classes - 1);
  std::vector<float> persistence = climatology, calibrated = climatology;
  for (std::size_t k = 0; k < thresholds; ++k)
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const int before = inputs.persisted[cell];
      if (before < 0) continue;
      persistence[k * cells + cell] = before > static_cast<int>(k) ? 1.0F : 0.0F;
      const std::size_t row = static_cast<std::size_t>(lead * persistence_.classes + before);
      calibrated[k * cells + cell] = static_cast<float>(persistence_.exceedance[row * thresholds + k]);
    }
  return {climatology, std::move(persistence), std::move(calibrated),
          predict(regressions_[static_cast<std::size_t>(lead)], inputs.predictors, climatology)};
}

} // namespace pluvia
