#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/data/archive.hpp"

namespace pluvia {

/// Ordered classes of an amount: class k holds thresholds[k-1] <= amount < thresholds[k]; K + 1 classes.
/// Returns -1 for NaN.
int amount_class(float amount_mm, const std::vector<double>& thresholds_mm);

/// Climatological class probabilities pi by cell and hour of the window's end:
/// (n_k + alpha pibar_k) / (n + alpha), counts smoothed over cells (Gaussian, sigma 4 cells, radius 12) and over
/// hours (+-1), alpha = 5. Windows end at whole hours.
class Climatology {
public:
  static constexpr int hours = 24;
  static constexpr int smoothing_radius = 12; ///< cells

  /// Counts the windows that lie wholly inside [from, to) on this rank's tile; `reader` must cover the tile
  /// grown by smoothing_radius and clipped to the domain. Collective (the domain's mean is reduced).
  /// Throws a data Error when the range holds no window.
  static Climatology count(const Communicator& comm, ArchiveReader& reader, const Rect& tile,
                           const Accumulation& rule, const std::vector<double>& thresholds_mm, Time from, Time to);

  int classes() const { return classes_; }
  const Rect& tile() const { return tile_; }

  /// pi for a window ending at `end` (rounded to the hour): [height x width x classes], row-major. Local.
  std::vector<float> probabilities(Time end) const;
  /// The same with the windows left out that overlap the one ending at `end` or lie within 12 h of it: what a
  /// sample of the training range may know of its own climate. Local.
  std::vector<float> probabilities_without(Time end) const;

private:
  struct Window {
    Time end;
    std::vector<std::int8_t> classes; ///< of the grown rectangle; -1 = no data
  };
  std::vector<float> smooth(const std::vector<std::int32_t>& counts) const;
  int classes_ = 0;
  Rect tile_, grown_;
  std::vector<Window> windows_;
  std::vector<double> mean_;                       ///< pibar
  std::vector<std::vector<std::int32_t>> counts_;  ///< per hour [grown cells x classes]
};

} // namespace pluvia
