#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/model/climatology.hpp"
#include "pluvia/verify/logistic_regression.hpp"

namespace pluvia {

// What a forecast has to beat: climatology, persistence and a logistic regression that knows as much of the
// recent images as seven numbers a cell can hold. All learn from the training range alone.

/// What the references look at.
struct ReferenceRules {
  Accumulation rain;
  std::vector<double> thresholds_mm;
  std::string brightness;                        ///< variable of brightness temperature [K]; empty = none
  std::map<std::string, double> latency_minutes; ///< by variable: how late it arrives
};

/// The predictor taken for a brightness temperature: tb_min where it is one, otherwise the first predictor
/// that is not the target; empty when there is none.
std::string brightness_predictor(const std::vector<std::string>& predictors, const std::string& target);

/// What is known of a tile at an initial time.
struct ReferenceInputs {
  static constexpr std::array<int, 3> boxes{1, 5, 13}; ///< widths of the box means [cells]
  static constexpr int reach = 6;                      ///< cells around the tile that they need
  static constexpr int count = 7;
  std::vector<std::int8_t> persisted; ///< class of the last complete window; -1 = unknown
  /// [cells x count], NaN = unknown: brightness temperature [K] and log(1 + rain of the last window [mm]) as
  /// box means of three widths each, and the 3-hour change of the middle one of the former [K].
  std::vector<float> predictors;
};
/// Reads them for a tile, which `reader` covers with `reach` more cells inside the domain: the newest frame
/// and the newest window that have arrived by `init`. The same bits on every tiling. Local.
ReferenceInputs reference_inputs(ArchiveReader& reader, const ReferenceRules& rules, const Rect& tile,
                                 Time init);

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

  /// Fits on about 100 000 cells and at most 240 initial times of the training range [from, to), chosen by
  /// counter-based random numbers; each sees the climatology without its own neighbourhood in time. `area`:
  /// relative area of the tile's cells. Collective.
  /// Throws a data Error when no initial time of the range has a complete window.
  static References fit(const Communicator& comm, const Log& log, ArchiveReader& reader,
                        const ReferenceRules& rules, const Climatology& climatology,
                        const std::vector<double>& leads_hours, std::span<const float> area, Time from,
                        Time to);

  /// P(amount >= threshold) of each reference as [thresholds x cells], from the climatology [thresholds x
  /// cells] of the lead's window. Persistence falls back to climatology where the last window is unknown.
  /// Local.
  std::vector<std::vector<float>> forecast(int lead, const ReferenceInputs& inputs,
                                           const std::vector<float>& climatology) const;

  const std::vector<LogisticRegression>& regressions() const { return regressions_; } ///< by lead

private:
  PersistenceTable persistence_;
  std::vector<LogisticRegression> regressions_;
};

} // namespace pluvia
