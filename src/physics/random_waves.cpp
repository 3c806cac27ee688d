#include "pluvia/physics/random_waves.hpp"

#include <cmath>
#include <numbers>

namespace pluvia {

namespace {
constexpr double two_pi = 2 * std::numbers::pi;
// Parameters of wave i stand at index i * 8 + ..., its amplitudes at the two indices after them.
constexpr std::uint64_t per_wave = 8;
} // namespace

RandomWaves::RandomWaves(Index ny, Index nx, double cell_km, std::uint64_t seed, RandomPurpose purpose,
                         Spectrum spectrum)
    : seed_(seed), purpose_(purpose) {
  (void)ny; // waves need not close in y
  const double length_km = static_cast<double>(nx) * cell_km;
  for (int i = 0; i < spectrum.waves; ++i) {
    const std::uint64_t base = static_cast<std::uint64_t>(i) * per_wave;
    const auto uniform = [&](std::uint64_t which) { return random_uniform(seed, purpose, base + which); };
    const double wavelength_km = spectrum.shortest_km * std::pow(spectrum.longest_km / spectrum.shortest_km,
                                                                 (i + uniform(0)) / spectrum.waves);
    const double direction = two_pi * uniform(1);
    const double drift = spectrum.drift + spectrum.drift_spread * random_normal(seed, purpose, base + 2);
    Wave wave{};
    // A whole number of waves around the channel.
    wave.kx = two_pi * std::round(length_km / wavelength_km * std::cos(direction)) / static_cast<double>(nx);
    wave.ky = two_pi * std::sin(direction) * cell_km / wavelength_km;
    wave.per_hour = wave.kx * drift * 3.6 / cell_km;
    wave.keep = std::exp(-1 / (spectrum.memory_hours * wavelength_km / 1000));
    waves_.push_back(wave);
  }
  for (std::size_t i = 0; i < waves_.size(); ++i)
    waves_[i].cosine = normal(i, 0, 0), waves_[i].sine = normal(i, 1, 0);
}

double RandomWaves::normal(std::size_t wave, int which, std::int64_t hour) const {
  return random_normal(seed_, purpose_, wave * per_wave + 3 + static_cast<std::uint64_t>(which),
                       static_cast<std::uint64_t>(hour));
}

void RandomWaves::next_hour() {
  ++hour_;
  for (std::size_t i = 0; i < waves_.size(); ++i) {
    Wave& wave = waves_[i];
    const double renew = std::sqrt(1 - wave.keep * wave.keep);
    wave.cosine = wave.keep * wave.cosine + renew * normal(i, 0, hour_);
    wave.sine = wave.keep * wave.sine + renew * normal(i, 1, hour_);
  }
}

std::vector<double> RandomWaves::field(const Rect& rect) const {
  std::vector<double> out(static_cast<std::size_t>(rect.cells()), 0.0);
  std::vector<double> in_phase(static_cast<std::size_t>(rect.width())), quadrature(in_phase.size());
  const double norm = 1 / std::sqrt(static_cast<double>(waves_.size()));
  for (const Wave& wave : waves_) {
    for (Index x = rect.x0; x < rect.x1; ++x) {
      const double phase = wave.kx * static_cast<double>(x) - wave.per_hour * static_cast<double>(hour_);
      const double c = std::cos(phase), s = std::sin(phase);
      const auto i = static_cast<std::size_t>(x - rect.x0);
      in_phase[i] = norm * (wave.cosine * c + wave.sine * s);
      quadrature[i] = norm * (wave.sine * c - wave.cosine * s);
    }
    double* row = out.data();
    for (Index y = rect.y0; y < rect.y1; ++y, row += rect.width()) {
      const double c = std::cos(wave.ky * static_cast<double>(y)),
                   s = std::sin(wave.ky * static_cast<double>(y));
      for (std::size_t i = 0; i < in_phase.size(); ++i) row[i] += in_phase[i] * c + quadrature[i] * s;
    }
  }
  return out;
}

} // namespace pluvia
