#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// Area-weighted counts of forecasts and outcomes from which every score follows. Forecasts are thousandths,
/// as products store them, and areas multiples of 1/4096, so that all are whole numbers: partial results add
/// up exactly in any order, over ranks, days and jobs.
struct ScoreCounts {
  static constexpr int bins = 10; ///< MET's "==0.1": [0, 0.1), [0.1, 0.2), ... [0.9, 1]
  std::int64_t weight[bins] = {}, events[bins] = {};
  std::int64_t square = 0; ///< sum of weight times (p - o)^2 in millionths

  void add(const ScoreCounts& other, std::int64_t times = 1);
  bool operator==(const ScoreCounts&) const = default;
};

/// The same by forecast probability in thousandths.
struct ForecastHistogram {
  static constexpr int values = 1001;
  std::vector<std::int64_t> weight = std::vector<std::int64_t>(values),
                            events = std::vector<std::int64_t>(values);
  bool operator==(const ForecastHistogram&) const = default;
};

/// Sums of the fractions skill score of one neighbourhood width (Roberts and Lean 2008, Mon. Weather Rev.
/// 136): f = mean forecast probability, o = share of cells with the event, both over the box around a cell;
/// weights = areas.
struct FractionSums {
  FixedSum miss, forecast, observed; ///< (f - o)^2, f^2, o^2

  void add(const FractionSums& other, std::int64_t times = 1);
  bool operator==(const FractionSums&) const = default;
};

/// Counts by day for one or more forecast systems on the same cells and times, per lead and threshold.
class ScoreTable {
public:
  static constexpr std::array<int, 3> widths{5, 13, 25}; ///< of neighbourhoods [cells]
  static constexpr int reach = 12;                       ///< cells around a tile that they need

  /// System 0 is the one under test; the others are its references, "climatology" among them.
  ScoreTable(std::vector<std::string> systems, std::vector<double> leads_hours,
             std::vector<double> thresholds_mm);

  /// Adds one lead of one forecast. `forecasts`: per system P(amount >= threshold) as [thresholds x cells];
  /// `observed`: class of each cell (-1 = no data), `area`: relative area of each cell, 0..1. Cells count
  /// only where all systems forecast and an observation exists, so that all systems are scored on the same
  /// cells. The day is that of the window's end less one second. Local.
  void add(int lead, Time window_end, std::span<const std::vector<float>> forecasts,
           std::span<const std::int8_t> observed, std::span<const float> area);
  /// Adds the neighbourhoods of system 0 alone. Its forecasts [thresholds x height x width] and the observed
  /// classes cover `held`, the tile with half the widest box more on every side, as far as the domain goes;
  /// `area`: of the tile's cells. A cell without forecast or observation is left out of every box. Local.
  void add_neighbourhoods(int lead, Time window_end, std::span<const float> forecast,
                          std::span<const std::int8_t> observed, const Rect& held, const Rect& tile,
                          std::span<const float> area);
  /// Sums over ranks: the same on any number of them. Collective.
  void reduce(const Communicator& comm);
  /// Adds another table of the same systems, leads and thresholds. Throws a data Error when it is of others,
  /// or holds a lead of a forecast that is in this one, too.
  void merge(const ScoreTable& other);

  const std::vector<std::string>& systems() const { return systems_; }
  const std::vector<double>& leads_hours() const { return leads_; }
  const std::vector<double>& thresholds_mm() const { return thresholds_; }
  std::vector<Time> days() const; ///< midnights
  const ScoreCounts& of_day(Time day, int system, int lead, int threshold) const;
  const FractionSums& fractions_of_day(Time day, int lead, int threshold, int width) const;
  const ForecastHistogram& histogram(int system, int lead, int threshold) const;
  /// Initial times of which some lead was added.
  std::int64_t forecasts() const;
  /// Valid cells times forecasts of a lead, not weighted.
  std::int64_t n_valid(int lead) const;

  std::string to_json() const;
  /// Throws a data Error, which names the source, when the text is not a score table.
  static ScoreTable from_json(const std::string& text, const std::string& source = "The score table");
  bool operator==(const ScoreTable&) const = default;

private:
  struct Day {
    std::vector<std::int64_t> n_valid;   // by lead
    std::vector<ScoreCounts> counts;     // [systems x leads x thresholds]
    std::vector<FractionSums> fractions; // [leads x thresholds x widths]
    bool operator==(const Day&) const = default;
  };
  Day& day(Time midnight);
  std::size_t at(int system, int lead, int threshold) const;
  Time init_of(int lead, Time window_end) const;

  std::vector<std::string> systems_;
  std::vector<double> leads_, thresholds_;
  std::map<Time, Day> days_;
  std::vector<std::set<Time>> inits_;         // by lead, of the forecasts that were added
  std::vector<ForecastHistogram> histograms_; // [systems x leads x thresholds]
};

/// One number of the report. NaN where the data do not determine it.
struct Score {
  int system = 0, lead = 0, threshold = -1; ///< threshold -1: of all thresholds together
  std::string name;
  double value = 0;
  double lower, upper; ///< 95 % interval by bootstrap over days; NaN where there is none
  std::int64_t n_valid = 0;
};

// Scores of counts; NaN where undefined. f = forecast, o = outcome 0 or 1, weights = areas, N = sum of
// weights.

/// Brier score: sum w (f - o)^2 / N (Brier 1950, Mon. Weather Rev. 78).
double brier(const ScoreCounts& c);
/// Fractions skill score 1 - sum (f - o)^2 / (sum f^2 + sum o^2).
double fractions_skill(const FractionSums& sums);
/// Murphy's partition over the bins with their midpoints as forecasts, as MET prints it (Murphy 1973, J.
/// Appl. Meteorol. 12): brier = reliability - resolution + uncertainty.
struct MurphyPartition {
  double brier, reliability, resolution, uncertainty;
};
MurphyPartition murphy_partition(const ScoreCounts& c);
/// Area under the ROC curve = P(f of an event > f of a non-event) + P(equal) / 2, the Mann-Whitney statistic
/// (Mason and Graham 2002, Q. J. R. Meteorol. Soc. 128).
double roc_area(const ForecastHistogram& h);
/// The 2 x 2 table of "yes" where f >= a probability.
struct ContingencyTable {
  double hits = 0, false_alarms = 0, misses = 0, correct_negatives = 0; ///< weights
};
ContingencyTable contingency(const ForecastHistogram& h, int thousandths);
double pody(const ContingencyTable& t);  ///< hits / (hits + misses)
double pofd(const ContingencyTable& t);  ///< false_alarms / (false_alarms + correct_negatives)
double far_(const ContingencyTable& t);  ///< false_alarms / (hits + false_alarms)
double csi(const ContingencyTable& t);   ///< hits / (hits + misses + false_alarms)
double fbias(const ContingencyTable& t); ///< (hits + false_alarms) / (hits + misses)
/// Gilbert skill score (equitable threat score): (hits - r) / (hits + misses + false_alarms - r),
/// r = (hits + false_alarms)(hits + misses) / N.
double gss(const ContingencyTable& t);
/// Relative economic value for a user who protects when f >= cost / loss (Richardson 2000, Q. J. R. Meteorol.
/// Soc. 126): (min(a, s) - E) / (min(a, s) - a s), a = cost / loss, s = base rate, E = a (hits +
/// false_alarms) / N
/// + misses / N.
double economic_value(const ForecastHistogram& h, double cost_loss_ratio);
/// Widths d_k with which CRPS = sum d_k BRIER_k: the integral over the amount x of the Brier score of
/// P(amount >= x) (Hersbach 2000, Weather Forecast. 15) by the trapezoidal rule from 0, where it vanishes, up
/// to the highest threshold. Unit: mm.
std::vector<double> crps_widths(const std::vector<double>& thresholds_mm);

/// All scores under MET's names, with N_valid and day-bootstrap intervals where day sums suffice:
/// BASER, BRIER, BRIER_MET (binned), RELIABILITY, RESOLUTION, UNCERTAINTY, BSS (against climatology),
/// BSS_SMPL = (RESOLUTION - RELIABILITY) / UNCERTAINTY, BSS_<REFERENCE> for each other reference, ROC_AUC,
/// PODY, FAR, CSI, FBIAS, GSS with suffix _P050 (f >= 0.5) and _PBEST (f >= P_BEST, the probability of
/// highest CSI), ECLV_Annn (cost / loss = 0.nnn), and per lead CRPS [mm] and CRPSS (against climatology).
/// The system under test alone has FSS_Wnn, the fractions skill score of nn x nn cells, and UFSS = 1/2 +
/// BASER / 2, what a uniform forecast of the base rate would reach at the smallest useful scale. Resamples
/// whole days (`resamples` times, the same draws for all systems: differences are paired); no intervals from
/// fewer than 4 days.
std::vector<Score> all_scores(const ScoreTable& table, int resamples = 1000);

} // namespace pluvia
