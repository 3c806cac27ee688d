#include "pluvia/core/order_free_sums.hpp"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

namespace pluvia {

namespace {

/// What the lower limb holds in whole units of the upper one goes there.
void carry(std::int64_t& upper, std::int64_t& lower) {
  upper =
      static_cast<std::int64_t>(static_cast<std::uint64_t>(upper) + static_cast<std::uint64_t>(lower >> 39));
  lower &= (std::int64_t{1} << 39) - 1;
}

} // namespace

void OrderFreeSums::add(std::size_t first, std::span<const float> terms) {
  assert(first + terms.size() <= size_);
  std::int64_t* upper = limbs_.data() + first;
  std::int64_t* lower = upper + size_;
  std::int64_t bad = 0;
  for (std::size_t i = 0; i < terms.size(); ++i) add_order_free(terms[i], upper[i], lower[i], bad);
  if (bad != 0) std::atomic_ref(limbs_.back()).fetch_add(bad);
}

void OrderFreeSums::add(const OrderFreeSums& other) {
  assert(other.size_ == size_);
  for (std::size_t i = 0; i < limbs_.size(); ++i)
    limbs_[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(limbs_[i]) +
                                          static_cast<std::uint64_t>(other.limbs_[i]));
}

void OrderFreeSums::set_limbs(std::span<const std::int64_t> from) {
  assert(from.size() == 3 * size_);
  std::copy_n(from.begin(), 2 * size_, limbs_.begin());
  limbs_.back() =
      std::accumulate(from.begin() + static_cast<std::ptrdiff_t>(2 * size_), from.end(), std::int64_t{0});
}

void OrderFreeSums::carry() {
  for (std::size_t i = 0; i < size_; ++i) pluvia::carry(limbs_[i], limbs_[size_ + i]);
}

void OrderFreeSums::round_to(std::span<float> out) const {
  assert(out.size() == size_);
  for (std::size_t i = 0; i < size_; ++i) {
    std::int64_t upper = limbs_[i], lower = limbs_[size_ + i];
    pluvia::carry(upper, lower); // equal sums have equal limbs
    out[i] = limbs_.back() != 0 ? std::numeric_limits<float>::quiet_NaN()
                                : static_cast<float>(std::ldexp(static_cast<double>(upper), -24) +
                                                     std::ldexp(static_cast<double>(lower), -63));
  }
}

} // namespace pluvia
