#pragma once
#include <string>
#include <vector>

#include "pluvia/io/time.hpp"
#include "pluvia/model/checkpoint.hpp"
#include "pluvia/model/climatology.hpp"

namespace pluvia {

/// The finished climatology of a trained model: class probabilities of one tile for each of 24 hours of the
/// window's end.
struct HourlyClimatology {
  int classes = 0;
  std::vector<std::vector<float>> hours; ///< [24][height x width x classes]

  /// pi of the window that ends at `end`.
  const std::vector<float>& at(Time end) const;
};
/// Local.
HourlyClimatology finish(const Climatology& climatology);
/// Forgets all but the hours of windows that end at these times. Local.
void keep_hours(HourlyClimatology& climatology, const std::vector<Time>& ends);
/// To and from a checkpoint's field [24 x height x width x classes]. Local.
TiledField to_field(const HourlyClimatology& climatology);
HourlyClimatology from_field(const TiledField& field);

} // namespace pluvia
