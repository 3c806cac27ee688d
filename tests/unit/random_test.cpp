#include "pluvia/core/random.hpp"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

namespace pluvia {
namespace {

// The known answers published with the generator (Random123, kat_vectors).
TEST(Random, PhiloxGivesThePublishedWords) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, InverseNormalInvertsTheDistribution) {
  for (double x = -8; x <= 5; x += 0.0625) {
    const double p = 0.5 * std::erfc(-x / std::sqrt(2.0));
    // Rounding p moves x by about 1e-16 / density on the upper side.
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
    EXPECT_NEAR(inverse_normal(p), x, 1e-14 * (1 + std::abs(x)) + 3e-16 / density * std::fmin(p, 1)) << x;
  }
}

TEST(Random, UniformFillsItsIntervalEvenly) {
  const int n = 100000, bins = 50;
  int count[bins] = {};
  for (int i = 0; i < n; ++i) {
    const double u = random_uniform(3, RandomPurpose::test, static_cast<std::uint64_t>(i), 17);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    ++count[static_cast<int>(u * bins)];
  }
  double chi2 = 0;
  for (int c : count) chi2 += std::pow(c - n / bins, 2) / (n / bins);
  EXPECT_LT(chi2, 49 + 5 * std::sqrt(2.0 * 49)); // five standard deviations
}

TEST(Random, NormalHasItsMomentsAndNoCorrelationAlongIndexOrStep) {
  const int n = 100000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, along_index = 0, along_step = 0, last_index = 0, last_step = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random_normal(1, RandomPurpose::test, static_cast<std::uint64_t>(i), 0);
    const double y = random_normal(1, RandomPurpose::test, 0, static_cast<std::uint64_t>(i));
    m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
    along_index += x * last_index, along_step += y * last_step;
    last_index = x, last_step = y;
  }
  const double sigma = 1 / std::sqrt(n);
  EXPECT_NEAR(m1 / n, 0, 5 * sigma);
  EXPECT_NEAR(m2 / n, 1, 5 * sigma * std::sqrt(2.0));
  EXPECT_NEAR(m3 / n, 0, 5 * sigma * std::sqrt(15.0));
  EXPECT_NEAR(m4 / n, 3, 5 * sigma * std::sqrt(96.0));
  EXPECT_NEAR(along_index / n, 0, 5 * sigma);
  EXPECT_NEAR(along_step / n, 0, 5 * sigma);
}

TEST(Random, EveryPartOfTheKeyMatters) {
  std::set<std::uint64_t> seen;
  const std::uint64_t big = std::uint64_t{1} << 40; // beyond the low words
  for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, big})
    for (auto purpose : {RandomPurpose::noise, RandomPurpose::missing})
      for (std::uint64_t index : {std::uint64_t{0}, std::uint64_t{1}, big})
        for (std::uint64_t step : {std::uint64_t{0}, std::uint64_t{1}, big})
          seen.insert(random_bits(seed, purpose, index, step));
  EXPECT_EQ(seen.size(), 3u * 2 * 3 * 3);
  EXPECT_EQ(random_bits(7, RandomPurpose::noise, 5, 2), random_bits(7, RandomPurpose::noise, 5, 2));
}

TEST(Random, BelowStaysBelowAndReachesAll) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 200; ++i) seen.insert(random_below(7, 1, RandomPurpose::test, i));
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(*seen.rbegin(), 6u);
}

} // namespace
} // namespace pluvia
