#pragma once
#include <cmath>
#include <cstdint>
#include <span>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// A sum of real numbers whose value depends neither on their order nor on the ranks that held them: each
/// term is rounded to a multiple of 2^-40 and whole numbers are added in two limbs. Terms below 2^22 in
/// magnitude, at most 2^30 of them between two calls of carry().
struct FixedSum {
  std::int64_t high = 0; ///< units of 2^-8
  std::int64_t low = 0;  ///< units of 2^-40

  void add(double term) {
    const std::int64_t units = std::llrint(term * 0x1p40);
    high += units >> 32;
    low += units & 0xffffffff;
  }
  void add(const FixedSum& other) { high += other.high, low += other.low; }
  /// Moves whole units of the high limb out of the low one.
  void carry() { high += low >> 32, low &= 0xffffffff; }
  double value() const {
    FixedSum sum = *this;
    sum.carry();
    return std::ldexp(static_cast<double>(sum.high), -8) + std::ldexp(static_cast<double>(sum.low), -40);
  }
  bool operator==(const FixedSum&) const = default;
};

/// Sums over all ranks, in place: the same bits on any number of ranks. Collective.
void all_reduce(const Communicator& comm, std::span<FixedSum> sums);

} // namespace pluvia
