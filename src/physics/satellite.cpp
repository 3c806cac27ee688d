#include "pluvia/physics/satellite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pluvia/core/random.hpp"

namespace pluvia {

namespace {

float rounded(double kelvin) {
  return static_cast<float>(std::round(kelvin * 32) / 32);
}

// Lines and frames share a purpose: frames stand behind any number of lines.
constexpr std::uint64_t whole_frame = std::uint64_t{1} << 32;

} // namespace

bool frame_is_missing(std::uint64_t seed, std::uint64_t frame, double missing) {
  return random_uniform(seed, RandomPurpose::missing, whole_frame, frame) < missing;
}

SatelliteImage observe(const ShallowWater& model, const Imager& imager, std::uint64_t frame) {
  const Rect& tile = model.tile();
  const ShallowWaterTile& geometry = model.geometry();
  const ShallowWaterSetup& setup = model.setup();
  const std::vector<double> longitudes = column_longitudes(setup);
  SatelliteImage image;
  image.window.resize(static_cast<std::size_t>(tile.cells()));
  image.vapour.resize(image.window.size());
  std::size_t i = 0;
  for (Index y = tile.y0; y < tile.y1; ++y) {
    const double saturation = geometry.saturation[static_cast<std::size_t>(y - tile.y0)];
    const bool lost = random_uniform(imager.seed, RandomPurpose::missing, static_cast<std::uint64_t>(y),
                                     frame) < imager.missing_lines;
    for (Index x = tile.x0; x < tile.x1; ++x, ++i) {
      const ShallowWaterCell& cell = model.cells()[i];
      const double sun =
          sun_height(static_cast<double>(model.time()), longitudes[static_cast<std::size_t>(x)]);
      const double surface = 299 + geometry.land[i] * (12 * sun - 5);
      const double emissivity = 1 - std::exp(-cell.cloud / 0.35), thick = cell.cloud / 1.2;
      const double top = 300 - 6.5 * (3 + 12.5 * thick / (1 + thick));
      const double humid = std::clamp((cell.vapour / saturation - 0.7) / 0.3, 0.0, 1.0);
      const double vapour_level = 256 - 26 * humid;
      const auto number = static_cast<std::uint64_t>(y * setup.nx + x) * 2; // two channels a cell
      const auto noise = [&](std::uint64_t channel) {
        return imager.noise_kelvin *
               random_normal(imager.seed, RandomPurpose::noise, number + channel, frame);
      };
      const double window = (1 - emissivity) * (surface - 0.1 * cell.vapour) + emissivity * top;
      const double vapour = (1 - emissivity) * vapour_level + emissivity * std::min(vapour_level, top + 8);
      image.window[i] = lost ? std::numeric_limits<float>::quiet_NaN() : rounded(window + noise(0));
      image.vapour[i] = lost ? std::numeric_limits<float>::quiet_NaN() : rounded(vapour + noise(1));
    }
  }
  return image;
}

} // namespace pluvia
