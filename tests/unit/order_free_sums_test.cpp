// Sums that depend neither on the order of their terms nor on their grouping.
#include "pluvia/core/order_free_sums.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/fixed_sum.hpp"
#include "pluvia/core/random.hpp"

namespace pluvia {
namespace {

/// Numbers of both signs from 1e-12 to 1e3.
std::vector<float> terms(std::size_t n) {
  std::vector<float> out;
  for (std::size_t i = 0; i < n; ++i)
    out.push_back(static_cast<float>(random_normal(1, RandomPurpose::test, i) *
                                     std::pow(10.0, -12 + 15 * random_uniform(2, RandomPurpose::test, i))));
  return out;
}

float sum_of(const OrderFreeSums& sums) {
  float out = 0;
  sums.round_to(std::span(&out, 1));
  return out;
}

TEST(OrderFreeSums, AreTheSameInAnyOrderAndGrouping) {
  std::vector<float> values = terms(10000);
  OrderFreeSums forward(1), backward(1), grouped(1);
  for (float v : values) forward.add(0, std::span(&v, 1));
  std::ranges::reverse(values);
  for (float v : values) backward.add(0, std::span(&v, 1));
  for (std::size_t from = 0; from < values.size(); from += 700) {
    OrderFreeSums part(1);
    for (std::size_t i = from; i < std::min(values.size(), from + 700); ++i)
      part.add(0, std::span(&values[i], 1));
    grouped.add(part);
  }
  EXPECT_EQ(sum_of(forward), sum_of(backward));
  EXPECT_EQ(sum_of(forward), sum_of(grouped));
  // A float's own sum in another order differs: the test can fail.
  float plain = 0, reversed = 0;
  for (float v : values) reversed += v;
  std::ranges::reverse(values);
  for (float v : values) plain += v;
  EXPECT_NE(plain, reversed);
}

TEST(OrderFreeSums, AreAsExactAsSumsInLongDouble) {
  for (const double size : {1e-9, 1e-3, 1e3}) {
    OrderFreeSums sums(3);
    long double exact[3] = {};
    for (std::size_t i = 0; i < 1000; ++i) {
      float v[3];
      for (std::size_t k = 0; k < 3; ++k) {
        v[k] = static_cast<float>(size * random_normal(3, RandomPurpose::test, 3 * i + k));
        exact[k] += static_cast<long double>(v[k]);
      }
      sums.add(0, v);
    }
    float out[3];
    sums.round_to(out);
    for (std::size_t k = 0; k < 3; ++k)
      EXPECT_NEAR(out[k], static_cast<double>(exact[k]),
                  1e-7 * std::abs(static_cast<double>(exact[k])) + 1e-16);
  }
}

TEST(OrderFreeSums, ThatAreEqualRoundAlikeHoweverTheyWereMade) {
  // The lower limb may hold more than a unit of the upper one.
  OrderFreeSums many(1), one(1);
  const float small = 0x1p-26F, all = 0x1p-10F;
  for (int i = 0; i < 1 << 16; ++i) many.add(0, std::span(&small, 1));
  one.add(0, std::span(&all, 1));
  EXPECT_EQ(sum_of(many), sum_of(one));
}

TEST(OrderFreeSums, SayWhenATermIsOutOfRange) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 2e6F}) {
    OrderFreeSums sums(2);
    const float v[2] = {1, bad};
    sums.add(0, v);
    float out[2];
    sums.round_to(out);
    EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
    sums.clear();
    EXPECT_EQ(sum_of(OrderFreeSums(1)), 0.0F);
  }
}

TEST(FixedSum, SaysWhenATermIsOutOfRange) {
  FixedSum sum;
  sum.add(1.5);
  EXPECT_EQ(sum.value(), 1.5);
  FixedSum bad;
  bad.add(std::numeric_limits<double>::quiet_NaN());
  sum.add(bad);
  EXPECT_TRUE(std::isnan(sum.value()));
}

} // namespace
} // namespace pluvia
