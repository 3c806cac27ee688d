#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/data/amount_class.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/data/time_spans.hpp"

namespace pluvia {

/// P(amount >= thresholds[k]) of `cells` rows of class probabilities [cells x (K + 1)]: [K x cells], the sums
/// of the upper classes, added from the highest class down.
std::vector<float> exceedance(const std::vector<float>& class_probabilities, int classes);

/// The ends of the windows of `window` seconds that end at whole hours and lie wholly in the span:
/// from <= end - window and end < to.
std::vector<Time> whole_hour_windows(const TimeSpan& span, Time window);

/// Observed classes of a window, for the cells of a rectangle.
struct ObservedWindow {
  Time end = 0;
  std::vector<std::int8_t> classes; ///< [height x width]; -1 = no data; empty = no data anywhere in it
};

/// Which days the climatology of a training sample does without: each with a probability that is itself
/// drawn evenly from 0 to `most`. So the network meets climatologies of fewer days than all, and learns how
/// far to trust one. A draw that would leave no window at all leaves all. A function of these numbers and the day alone, the same on every process grid.
struct DayDraw {
  double most = 0; ///< 0..1; 0 = every day is there
  std::uint64_t seed = 0, sample = 0;
};

/// Climatological class probabilities pi by cell and hour of the window's end:
/// (n_k + alpha pibar_k) / (n + alpha), counts smoothed over cells (Gaussian, sigma 4 cells, radius 12, taps
/// that sum to one) and summed over hours (+-1); pibar_k = (N_k + 1/2) / (N + (K + 1)/2) over the whole
/// domain, so that no class has probability zero. Cells outside the domain or without data contribute
/// nothing. Windows end at whole hours. The same bits on every tiling.
///
/// alpha is the candidate with the least ranked probability score on windows of the range itself, each
/// forecast without its own neighbourhood in time: a place whose rain differs from its surroundings keeps its
/// own counts, while a short record without such places falls back to the domain's mean. (Measured: with
/// alpha = 5 throughout, ten days of simulated weather, which has no preferred place, score 6 to 10 % worse
/// than their mean; five real days over the Andes and the Amazon score 5 to 23 % better.)
class Climatology {
public:
  static constexpr int hours = 24;
  static constexpr int smoothing_radius = 12;                        ///< cells
  static constexpr double sigma = 4;                                 ///< cells
  static constexpr std::array<float, 5> alphas{5, 15, 50, 150, 500}; ///< candidates
  static constexpr Time separation = 12 * 3600; ///< between a sample's window and those it may know

  /// Ranks with the same tile, which read some windows each and hand them to each other; and all ranks that
  /// read so, of all tiles, for a failure is everybody's.
  struct SharedReading {
    const Communicator &same_tile, &all;
  };
  /// Counts the windows that lie wholly inside one of the spans on this rank's tile; `reader` must cover the
  /// tile grown by smoothing_radius and clipped to the domain. Collective over comm, which has each tile once
  /// (the domain's counts are reduced), and over those who share the reading, where given. Throws a data Error
  /// when the range holds no window.
  static Climatology count(const Communicator& comm, ArchiveReader& reader, const Rect& tile,
                           const Accumulation& rule, const std::vector<double>& thresholds_mm,
                           std::span<const TimeSpan> spans, const SharedReading* shared = nullptr);

  /// The same from observed windows of the grown tile, the same ends on every rank. `window` in seconds.
  /// Collective. Throws a data Error when there is no observation at all.
  static Climatology from_windows(const Communicator& comm, const Rect& domain, const Rect& tile, Time window,
                                  int classes, std::vector<ObservedWindow> windows);

  int classes() const { return classes_; }
  const Rect& tile() const { return tile_; }
  /// Windows of the domain's mean that were added to each cell's own.
  float alpha() const { return alpha_; }
  /// The tile with the neighbours that its smoothing needs.
  static Rect grown(const Rect& tile, const Rect& domain);
  /// The windows counted, on the grown tile.
  const std::vector<ObservedWindow>& windows() const { return windows_; }

  /// pi for a window ending at `end` (rounded to the hour): [height x width x classes], row-major. Local.
  /// Cost: 50 (K + 1) multiply-adds a cell.
  std::vector<float> probabilities(Time end) const;
  /// The same with the windows left out that overlap the one ending at `end` or lie within 12 h of it
  /// (|end - other| < window + 12 h): what a sample of the training range may know of its own climate.
  /// `days` leaves out more. Local.
  std::vector<float> probabilities_without(Time end, const DayDraw& days = {}) const;

private:
  std::vector<float> counts_around(int hour) const;
  std::vector<float> counts_without(Time end, const DayDraw& days,
                                    std::vector<std::int64_t>& domain_counts) const;
  std::vector<float> smooth(const std::vector<float>& counts) const;
  std::vector<float> mean(const std::vector<std::int64_t>& domain_counts) const;
  void choose_alpha(const Communicator& comm);

  int classes_ = 0;
  Time window_ = 0;
  float alpha_ = alphas[0];
  Rect tile_, grown_;
  std::vector<ObservedWindow> windows_;
  std::vector<std::vector<std::int64_t>> window_counts_; ///< of the whole domain, by window and class
  std::vector<std::int64_t> domain_counts_;              ///< by class
  std::vector<std::vector<std::int32_t>> counts_;        ///< by hour [grown cells x classes]
};

} // namespace pluvia
