#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/physics/shallow_water.hpp"

namespace pluvia {

/// What spoils the images of the simulated satellite.
struct Imager {
  double noise_kelvin = 0.5; ///< standard deviation, independent in every cell
  double missing_lines = 0;  ///< share of image lines lost
  std::uint64_t seed = 1;
};

/// Brightness temperatures [K] of one tile, row-major; NaN in lost lines.
struct SatelliteImage {
  std::vector<float> window; ///< infra-red window, about 10.8 um: 290 K clear to 200 K over cold tops
  std::vector<float> vapour; ///< water vapour, about 6.3 um: 255 K dry to 215 K
};

/// The two channels of a simulated state, image number `frame`:
///
///   T_window = (1 - e) (T_s - 0.1 q) + e T_top     e = 1 - exp(-w / 0.35 mm)        emissivity of cloud
///   T_vapour = (1 - e) T_v + e min(T_v, T_top + 8)  T_v = 256 - 26 clamp((q / q_s - 0.7) / 0.3)
///   T_top = 300 - 6.5 z,  z = 3 + 12.5 x / (1 + x) km,  x = w / 1.2 mm               cloud-top height
///
/// T_s is 299 K at sea and follows the sun on land. Linear in temperature, where a radiative transfer model
/// would be linear in radiance. Rounded to 1/32 K. Lines are rows. Noise and losses depend on (seed, global
/// cell or row, frame) alone. Local.
SatelliteImage observe(const ShallowWater& model, const Imager& imager, std::uint64_t frame);

/// Whether the whole image number `frame` is lost, where a share `missing` of them is. Local.
bool frame_is_missing(std::uint64_t seed, std::uint64_t frame, double missing);

} // namespace pluvia
