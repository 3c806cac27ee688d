#pragma once
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/model/pooled_regression.hpp"

namespace pluvia {

// What a forecast has to beat: climatology, persistence and a logistic regression that knows as much of the
// recent images as seven numbers a cell can hold. All learn from the training range alone.

/// Frequency of each class after each persisted class, per lead.
struct PersistenceTable {
  int leads = 0, classes = 0;
  std::vector<double> exceedance; ///< [leads x persisted class x thresholds]
};

/// The fitted references. A plain value, the same on every rank.
class References {
public:
  /// Names in the order of forecast(): climatology, persistence (the class of the last window as a certain
  /// forecast), calibrated_persistence (the frequency that followed it in training), logistic_regression.
  static const std::vector<std::string>& names();

  /// Fits on the pooled_rows of the training spans, and fails as they do. Collective.
  static References fit(const Communicator& comm, const Log& log, ArchiveReader& reader,
                        const RecentWeatherRule& rule, const Climatology& climatology,
                        const std::vector<double>& leads_hours, std::span<const float> area,
                        std::span<const TimeSpan> spans);

  /// P(amount >= threshold) of each reference as [thresholds x cells], from the climatology [thresholds x
  /// cells] of the lead's window. Persistence falls back to climatology where the last window is unknown.
  /// Local.
  std::vector<std::vector<float>> forecast(int lead, const RecentWeather& weather,
                                           const std::vector<float>& climatology) const;

  const std::vector<LogisticRegression>& regressions() const { return regressions_; } ///< by lead

private:
  PersistenceTable persistence_;
  std::vector<LogisticRegression> regressions_;
};

} // namespace pluvia
