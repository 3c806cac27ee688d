#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/random.hpp"

namespace pluvia {

/// A random field on a channel of ny x nx cells, periodic in x: the sum of plane waves of random direction,
/// with unit variance. A function of (seed, purpose) and the global cell alone.
class RandomWaves {
public:
  struct Spectrum {
    int waves = 40;
    double shortest_km = 400, longest_km = 2500; ///< wavelengths, evenly in the logarithm
    double memory_hours = 36; ///< e-folding time of the amplitudes at a wavelength of 1000 km; in proportion
    double drift = -4, drift_spread = 4; ///< phase speed towards the east [m s-1]
  };
  RandomWaves(Index ny, Index nx, double cell_km, std::uint64_t seed, RandomPurpose purpose,
              Spectrum spectrum);

  /// Moves the amplitudes on by one hour: red noise of first order.
  void next_hour();
  std::int64_t hour() const { return hour_; }
  /// The field over a rectangle at the present hour, row-major.
  std::vector<double> field(const Rect& rect) const;

private:
  struct Wave {
    double kx, ky;       ///< [1 / cell]
    double per_hour;     ///< phase [1]
    double keep;         ///< of the amplitude in an hour
    double cosine, sine; ///< amplitudes
  };
  double normal(std::size_t wave, int which, std::int64_t hour) const;

  std::uint64_t seed_;
  RandomPurpose purpose_;
  std::int64_t hour_ = 0;
  std::vector<Wave> waves_;
};

} // namespace pluvia
