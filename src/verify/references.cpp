#include "pluvia/verify/references.hpp"

#include <utility>

#include "pluvia/comm/reduce_sums.hpp"

namespace pluvia {

namespace {

constexpr double prior_weight = 5; // cells of the mean frequency added to each persisted class

} // namespace

const std::vector<std::string>& References::names() {
  static const std::vector<std::string> names{"climatology", "persistence", "calibrated_persistence",
                                              "logistic_regression"};
  return names;
}

References References::fit(const Communicator& comm, const Log& log, ArchiveReader& reader,
                           const RecentWeatherRule& rule, const Climatology& climatology,
                           const std::vector<double>& leads_hours, std::span<const float> area,
                           std::span<const TimeSpan> spans) {
  const std::vector<PooledRows> rows =
      pooled_rows(comm, log, reader, rule, climatology, leads_hours, area, spans);
  References out;
  out.regressions_ = fit_pooled_regression(comm, rows);
  const int classes = climatology.classes();
  out.persistence_ = {static_cast<int>(rows.size()), classes, {}};
  for (const auto& [regression, persisted] : rows) {
    // Column 0: weight; column k: weight of amounts that reach threshold k - 1. The last row: whatever was
    // before.
    const auto n = static_cast<std::size_t>(classes);
    std::vector<FixedSum> sums((n + 1) * n);
    for (std::size_t row = 0; row < persisted.size(); ++row)
      for (const int before : {static_cast<int>(persisted[row]), classes}) {
        if (before < 0) continue;
        for (int k = 0; k <= regression.observed[row]; ++k)
          sums[static_cast<std::size_t>(before) * n + static_cast<std::size_t>(k)].add(
              regression.weight[row]);
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

std::vector<std::vector<float>> References::forecast(int lead, const RecentWeather& weather,
                                                     const std::vector<float>& climatology) const {
  const std::size_t cells = weather.persisted.size();
  const auto thresholds = static_cast<std::size_t>(persistence_.classes - 1);
  std::vector<float> persistence = climatology, calibrated = climatology;
  for (std::size_t k = 0; k < thresholds; ++k)
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const int before = weather.persisted[cell];
      if (before < 0) continue;
      persistence[k * cells + cell] = before > static_cast<int>(k) ? 1.0F : 0.0F;
      const std::size_t row = static_cast<std::size_t>(lead * persistence_.classes + before);
      calibrated[k * cells + cell] = static_cast<float>(persistence_.exceedance[row * thresholds + k]);
    }
  return {climatology, std::move(persistence), std::move(calibrated),
          predict(regressions_[static_cast<std::size_t>(lead)], weather.predictors, climatology)};
}

} // namespace pluvia
