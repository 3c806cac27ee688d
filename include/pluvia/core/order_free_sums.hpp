#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// Adds a term to one order-free sum, as OrderFreeSums does.
PLUVIA_ANYWHERE inline void add_order_free(float term, std::int64_t& upper, std::int64_t& lower, std::int64_t& bad) {
  // A double plus this has whole numbers in its last bits, to the nearest, ties to even.
  const double whole = 0x1.8p52;
  const auto integer = [whole](double with_whole) {
    return std::bit_cast<std::uint64_t>(with_whole) - std::bit_cast<std::uint64_t>(whole);
  };
  const double units = static_cast<double>(term) * 0x1p24, rounded = units + whole;
  const double rest = (units - (rounded - whole)) * 0x1p39;
  upper = static_cast<std::int64_t>(static_cast<std::uint64_t>(upper) + integer(rounded));
  lower = static_cast<std::int64_t>(static_cast<std::uint64_t>(lower) + integer(rest + whole));
  bad += std::fabs(term) < 0x1p20F ? 0 : 1;
}

/// Many sums of floats side by side, whose values depend neither on the order of their terms nor on how these
/// were grouped or shared out over ranks: every term is rounded to a multiple of 2^-63 and whole numbers are
/// added, in two limbs of which the upper counts units of 2^-24. At most 2^24 terms each between two
/// calls of carry(), and sums below 2^39. A term that is not finite, or 2^20 and more in magnitude, makes all
/// sums NaN. Local.
class OrderFreeSums {
public:
  OrderFreeSums() = default;
  explicit OrderFreeSums(std::size_t size) : size_(size), limbs_(2 * size + 1, 0) {}

  bool empty() const { return size_ == 0; }
  void clear() { limbs_.assign(limbs_.size(), 0); }
  /// Adds terms to the sums from `first` on. Threads may add to different ones at once.
  void add(std::size_t first, std::span<const float> terms);
  void add(const OrderFreeSums& other);
  /// Takes over limbs that were summed elsewhere: upper, lower, and how many terms of each sum were out of range.
  void set_limbs(std::span<const std::int64_t> upper_lower_bad);
  /// Moves whole units of the upper limbs out of the lower ones.
  void carry();
  /// The sums, rounded to floats.
  void round_to(std::span<float> out) const;
  /// What is added over ranks, as integers.
  std::span<std::int64_t> limbs() { return limbs_; }

private:
  std::size_t size_ = 0;
  std::vector<std::int64_t> limbs_; // upper limbs, lower limbs, how many terms were out of range
};

} // namespace pluvia
