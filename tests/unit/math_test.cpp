#include "pluvia/core/math.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace pluvia {
namespace {

// Against the system's library in f64, over all exponents and many mantissas.
TEST(Math, LogarithmIsThatOfTheSystem) {
  for (int exponent = -126; exponent < 128; ++exponent)
    for (int i = 0; i < 997; ++i) {
      const float x = std::ldexp(1.0F + static_cast<float>(i) / 997.0F, exponent);
      const double exact = std::log(double{x});
      ASSERT_NEAR(log_f32(x), exact, 2e-7 * (1 + std::abs(exact))) << x;
    }
  EXPECT_EQ(log_f32(1.0F), 0.0F);
}

TEST(Math, ExponentialIsThatOfTheSystem) {
  for (float x = -86.9F; x < 88.0F; x += 0.0173F)
    ASSERT_NEAR(exp_f32(x) / std::exp(double{x}), 1.0, 3e-7) << x;
  EXPECT_EQ(exp_f32(-100.0F), 0.0F);
}

TEST(Math, ErrorFunctionIsThatOfTheSystem) {
  for (float x = -6.0F; x < 6.0F; x += 0.0013F) ASSERT_NEAR(erf_f32(x), std::erf(double{x}), 5e-7) << x;
}

} // namespace
} // namespace pluvia
