#pragma once
// Elementary functions for the forecast path, written out in single roundings: the same bits in vector and
// scalar code and on every processor, which a system's mathematics library does not promise.
#include <bit>
#include <cmath>
#include <cstdint>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// exp(x), relative error below 3e-7; 0 for x < -87, clamped above 88. Cody-Waite reduction and a degree-6
/// polynomial (Cephes, expf).
PLUVIA_ANYWHERE inline float exp_f32(float x) {
  const float clamped = x < 88.0F ? x : 88.0F;
  const float z = clamped > -87.0F ? clamped : -87.0F;
  constexpr float round_bias = 12582912.0F; // 1.5 * 2^23: adding it rounds to an integer
  const float n = std::fma(z, 1.44269504F, round_bias) - round_bias;
  float r = std::fma(n, -0.693359375F, z);
  r = std::fma(n, 2.12194440e-4F, r);
  float p = 1.9875691500e-4F;
  p = std::fma(p, r, 1.3981999507e-3F);
  p = std::fma(p, r, 8.3334519073e-3F);
  p = std::fma(p, r, 4.1665795894e-2F);
  p = std::fma(p, r, 1.6666665459e-1F);
  p = std::fma(p, r, 5.0000001201e-1F);
  const float value = std::fma(p, r * r, r) + 1.0F;
  const auto exponent = static_cast<std::int32_t>(n) + 127;
  const float scaled = value * std::bit_cast<float>(exponent << 23);
  return x < -87.0F ? 0.0F : scaled;
}

/// log(x) of a normal positive number, absolute error below 2e-7 times 1 + |log(x)|: a degree-8 polynomial on
/// [sqrt(1/2), sqrt(2)) (Cephes, logf).
PLUVIA_ANYWHERE inline float log_f32(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  const std::int32_t exponent = (bits - 0x3f3504f3) >> 23; // sqrt(1/2) is where one exponent meets the next
  const float f = std::bit_cast<float>(bits - exponent * 0x800000) - 1.0F, e = static_cast<float>(exponent),
              square = f * f;
  float p = 7.0376836292e-2F;
  p = std::fma(p, f, -1.1514610310e-1F);
  p = std::fma(p, f, 1.1676998740e-1F);
  p = std::fma(p, f, -1.2420140846e-1F);
  p = std::fma(p, f, 1.4249322787e-1F);
  p = std::fma(p, f, -1.6668057665e-1F);
  p = std::fma(p, f, 2.0000714765e-1F);
  p = std::fma(p, f, -2.4999993993e-1F);
  p = std::fma(p, f, 3.3333331174e-1F);
  const float tail = std::fma(square, -0.5F, std::fma(e, -2.12194440e-4F, p * f * square));
  return std::fma(e, 0.693359375F, f + tail);
}

/// erf(x), absolute error below 5e-7: rational approximation on [-4, 4] as in Eigen.
PLUVIA_ANYWHERE inline float erf_f32(float x) {
  const float low = x > -4.0F ? x : -4.0F;
  const float z = low < 4.0F ? low : 4.0F;
  const float s = z * z;
  float p = -2.72614225801306e-10F;
  p = std::fma(p, s, 2.77068142495902e-08F);
  p = std::fma(p, s, -2.10102402082508e-06F);
  p = std::fma(p, s, -5.69250639462346e-05F);
  p = std::fma(p, s, -7.34990630326855e-04F);
  p = std::fma(p, s, -2.95459980854025e-03F);
  p = std::fma(p, s, -1.60960333262415e-02F);
  float q = -1.45660718464996e-05F;
  q = std::fma(q, s, -2.13374055278905e-04F);
  q = std::fma(q, s, -1.68282697438203e-03F);
  q = std::fma(q, s, -7.37332916720468e-03F);
  q = std::fma(q, s, -1.42647390514189e-02F);
  return z * p / q;
}

/// x Phi(x): the Gaussian error linear unit (Hendrycks & Gimpel 2016), exact form.
PLUVIA_ANYWHERE inline float gelu(float x) {
  return 0.5F * x * (1.0F + erf_f32(x * 0.70710678F));
}

/// d gelu / dx = Phi(x) + x phi(x).
PLUVIA_ANYWHERE inline float gelu_slope(float x) {
  const float cumulative = 0.5F * (1.0F + erf_f32(x * 0.70710678F));
  return std::fma(x * 0.39894228F, exp_f32(-0.5F * x * x), cumulative);
}

PLUVIA_ANYWHERE inline float sigmoid(float x) {
  return 1.0F / (1.0F + exp_f32(-x));
}

/// Absolute error below 3e-7.
PLUVIA_ANYWHERE inline float tanh_f32(float x) {
  return std::fma(2.0F, sigmoid(2.0F * x), -1.0F);
}

} // namespace pluvia
