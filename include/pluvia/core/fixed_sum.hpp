#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// A sum of real numbers whose value depends neither on their order nor on the ranks that held them: each
/// term is rounded to a multiple of 2^-40 and whole numbers are added in two limbs. At most 2^30 terms between
/// two calls of carry(). A term that is no number, or 2^22 and more in magnitude, makes the value NaN.
struct FixedSum {
  std::int64_t high = 0; ///< units of 2^-8
  std::int64_t low = 0;  ///< units of 2^-40
  std::int64_t lost = 0; ///< terms out of range

  PLUVIA_ANYWHERE void add(double term) {
    if (!(std::fabs(term) < 0x1p22)) {
      ++lost;
      return;
    }
    const std::int64_t units = std::llrint(term * 0x1p40);
    high += units >> 32;
    low += units & 0xffffffff;
  }
  PLUVIA_ANYWHERE void add(const FixedSum& other) { high += other.high, low += other.low, lost += other.lost; }
  /// Moves whole units of the high limb out of the low one.
  void carry() { high += low >> 32, low &= 0xffffffff; }
  double value() const {
    if (lost != 0) return std::numeric_limits<double>::quiet_NaN();
    FixedSum sum = *this;
    sum.carry();
    return std::ldexp(static_cast<double>(sum.high), -8) + std::ldexp(static_cast<double>(sum.low), -40);
  }
  bool operator==(const FixedSum&) const = default;
};

} // namespace pluvia
