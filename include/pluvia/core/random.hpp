#pragma once
#include <array>
#include <cstdint>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// What a random number is for: each purpose is a stream of its own. The order is part of every archive and
/// checkpoint ever written: append only.
enum class RandomPurpose : std::uint32_t {
  initial_state, ///< of a simulation
  forcing,       ///< of a simulation
  noise,         ///< of an instrument
  missing,       ///< frames and lines lost
  weights,       ///< a network's first parameters
  shuffle,       ///< the order of the samples
  dropout,
  climatology, ///< which days a sample's climatology is drawn from
  bootstrap,   ///< resampled days of a score
  test,        ///< inputs of tests
  subsample,   ///< cells and times a statistic is fitted on
  outage,      ///< frames that a training sample does without
  drift,       ///< of an imager's calibration in a training sample
};

/// The Philox4x32-10 block cipher (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, SC11):
/// four independent 32-bit words for each counter and key. Local, no state.
PLUVIA_ANYWHERE inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                           std::array<std::uint32_t, 2> key) {
  std::array<std::uint32_t, 4>& c = counter;
  std::array<std::uint32_t, 2>& k = key;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
  }
  return c;
}

/// Random numbers are a function of (seed, purpose, index, step) alone, index being the global number of a
/// cell, sample or parameter: the same on every process grid, in every order, after every restart, and, being
/// made of exact and basic IEEE operations only, on every platform. Local.
PLUVIA_ANYWHERE inline std::uint64_t random_bits(std::uint64_t seed, RandomPurpose purpose,
                                                 std::uint64_t index, std::uint64_t step = 0) {
  // The finaliser of SplitMix64.
  std::uint64_t key = seed + 0x9e3779b97f4a7c15u * (static_cast<std::uint64_t>(purpose) + 1);
  key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
  key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
  key ^= key >> 31;
  const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  const auto words = philox({low(index), high(index), low(step), high(step)}, {low(key), high(key)});
  return static_cast<std::uint64_t>(words[1]) << 32 | words[0];
}

/// Uniform in [0, 1), a multiple of 2^-53.
PLUVIA_ANYWHERE inline double random_uniform(std::uint64_t seed, RandomPurpose purpose, std::uint64_t index,
                                             std::uint64_t step = 0) {
  return static_cast<double>(random_bits(seed, purpose, index, step) >> 11) * 0x1p-53;
}

/// Standard normal: the inverse distribution function of a uniform number.
double random_normal(std::uint64_t seed, RandomPurpose purpose, std::uint64_t index, std::uint64_t step = 0);

/// Uniform integer in [0, bound), bound > 0, without bias beyond 2^-64 * bound.
std::uint64_t random_below(std::uint64_t bound, std::uint64_t seed, RandomPurpose purpose,
                           std::uint64_t index, std::uint64_t step = 0);

/// x with P(standard normal <= x) = p, 0 < p < 1, to about 1e-15 relative (Wichura 1988, algorithm AS 241).
double inverse_normal(double p);

} // namespace pluvia
