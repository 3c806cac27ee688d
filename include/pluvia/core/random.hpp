#pragma once
#include <array>
#include <cstdint>

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
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// Random numbers are a function of (seed, purpose, index, step) alone, index being the global number of a
/// cell, sample or parameter: the same on every process grid, in every order, after every restart, and, being
/// made of exact and basic IEEE operations only, on every platform. Local.
std::uint64_t random_bits(std::uint64_t seed, RandomPurpose purpose, std::uint64_t index,
                          std::uint64_t step = 0);

/// Uniform in [0, 1), a multiple of 2^-53.
double random_uniform(std::uint64_t seed, RandomPurpose purpose, std::uint64_t index, std::uint64_t step = 0);

/// Standard normal: the inverse distribution function of a uniform number.
double random_normal(std::uint64_t seed, RandomPurpose purpose, std::uint64_t index, std::uint64_t step = 0);

/// Uniform integer in [0, bound), bound > 0, without bias beyond 2^-64 * bound.
std::uint64_t random_below(std::uint64_t bound, std::uint64_t seed, RandomPurpose purpose,
                           std::uint64_t index, std::uint64_t step = 0);

/// x with P(standard normal <= x) = p, 0 < p < 1, to about 1e-15 relative (Wichura 1988, algorithm AS 241).
double inverse_normal(double p);

} // namespace pluvia
