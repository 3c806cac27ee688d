#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/reduce_sums.hpp"

namespace pluvia {

// Calibration of exceedance probabilities per lead and threshold, fitted in two passes over the forecasts of
// the validation range, because the second stage bins what the first one makes of them:
//
//   ShrinkageSums first(leads, thresholds);      for each forecast: first.add(...)       first.reduce(comm)
//   Calibration c = fit_shrinkage(first);
//   ReliabilityCounts second(leads, thresholds); for each forecast: second.add(c, ...)   second.reduce(comm)
//   fit_isotonic(c, second);
//
// All sums are order-free, so that the fit has the same bits on every number of ranks.
//
// A short validation range proves little: cells and neighbouring windows rain together, and one day says
// hardly anything about the next. So what either stage changes is trusted as far as its gain in Brier skill g
// stands out of the noise s that the range leaves in it, by the factor g^2 / (g^2 + s^2) (James & Stein
// 1961): with few days forecasts stay near the network's own; with many days the factor is 1. s^2 = 0.07^2 / days + the jackknife variance over blocks of 6 hours; 0.07 is the
// spread of the Brier skill score from day to day, as measured on a week of real forecasts.

/// One lead time of one forecast on some cells. Probabilities are P(amount >= threshold) as
/// [thresholds x cells], 0..1; cells with class -1 (no observation) or NaN probabilities are left out.
struct LabelledForecast {
  std::span<const float> base; ///< what the network starts from: the climatology, or the pooled regression
  std::span<const float> probability;
  std::span<const std::int8_t> observed; ///< class of each cell: k thresholds are reached
  std::span<const float> area;           ///< relative area of each cell
};

/// The fitted maps. A plain value.
struct Calibration {
  /// A monotone piecewise linear map of probability, constant beyond its ends; identity when empty.
  struct Curve {
    std::vector<float> from, to;
  };
  int leads = 0, thresholds = 0;
  std::vector<float> shrinkage; ///< a [leads x thresholds], 0..1
  std::vector<float> noise;     ///< s [leads x thresholds], in Brier skill
  std::vector<Curve> curves;    ///< [leads x thresholds]
};

/// Sums for a = argmin sum w (base + a (p - base) - o)^2 = sum w (p - base)(o - base) / sum w (p - base)^2.
class ShrinkageSums {
public:
  ShrinkageSums(int leads, int thresholds);
  /// `block` numbers the six hours in which the window ends: floor(end / 6 h). Local.
  void add(int lead, std::int64_t block, const LabelledForecast& forecast);
  /// A block to which other ranks add, and this one perhaps does not. Local.
  void open(std::int64_t block);
  /// All ranks must have opened, or added to, the same blocks. Collective.
  void reduce(const Communicator& comm);

private:
  friend Calibration fit_shrinkage(const ShrinkageSums& sums);
  struct Sums {
    FixedSum cross, square, reference; // reference: the squared error of the base
  };
  int leads_, thresholds_;
  std::map<std::int64_t, std::vector<Sums>> blocks_; // [leads x thresholds] each
};

/// Counts by forecast probability after shrinkage, in bins of equal width in sqrt(p): rare events have small
/// ones.
class ReliabilityCounts {
public:
  static constexpr int bins = 100;
  ReliabilityCounts(int leads, int thresholds);
  /// Blocks as in ShrinkageSums. Local.
  void add(const Calibration& shrinkage, int lead, std::int64_t block, const LabelledForecast& forecast);
  void open(std::int64_t block);
  /// Collective.
  void reduce(const Communicator& comm);

private:
  friend void fit_isotonic(Calibration& calibration, const ReliabilityCounts& counts);
  struct Bin {
    FixedSum weight, events, probability; // area, area of events, area times probability
  };
  int leads_, thresholds_;
  std::vector<FixedSum> reference_;                 // [leads x thresholds], squared error of the base
  std::vector<std::int64_t> events_;                // [leads x thresholds], cells
  std::map<std::int64_t, std::vector<Bin>> blocks_; // [leads x thresholds x bins] each
};

/// p = base + a (p - base) with a in [0, 1] by least squares (Brier score) per lead and threshold, moved from
/// 1 as far as its gain over the network's own probabilities can be trusted.
Calibration fit_shrinkage(const ShrinkageSums& sums);

/// Adds isotonic regression (pool adjacent violators; Ayer et al. 1955; as reliability estimate: Dimitriadis
/// et al. 2021, PNAS 118) of the binned outcomes: per lead with at least 200 events, otherwise of all leads
/// together when they have 200, otherwise none. Taken only where it lowers the Brier score of
/// blocks that it has not seen (each in turn left out of the fit), and as far as that gain can be trusted.
void fit_isotonic(Calibration& calibration, const ReliabilityCounts& counts);

/// Calibrates one lead of a forecast in place: [thresholds x cells], shrinkage, curve, then
/// p_k = min(p_k, p_(k-1)). NaN stays NaN. Local; each cell by itself.
void calibrate(const Calibration& calibration, int lead, std::span<const float> base,
               std::span<float> probability);

/// Pool adjacent violators: the non-decreasing sequence nearest to `values` in the weighted square sum.
/// Local.
std::vector<double> isotonic(std::span<const double> values, std::span<const double> weights);

/// JSON text that calibration_from_json reads back to the same calibration.
std::string to_json(const Calibration& calibration);
/// Throws a data Error when the text is not a calibration.
Calibration calibration_from_json(const std::string& text);

} // namespace pluvia
