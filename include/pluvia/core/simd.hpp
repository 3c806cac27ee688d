#pragma once
// A vector of f32 as wide as the processor's registers. Only operations that round once per lane are here, so
// that results have the same bits whatever the width.
#include <cmath>

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

namespace pluvia::simd {

#if defined(__AVX512F__)
constexpr int width = 16;
constexpr int registers = 32;
struct Vec {
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec broadcast(float a) { return {_mm512_set1_ps(a)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
};
/// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int width = 8;
constexpr int registers = 16;
struct Vec {
  __m256 v;
  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec broadcast(float a) { return {_mm256_set1_ps(a)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
};
/// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
#else
constexpr int width = 4;
constexpr int registers = 16;
struct Vec {
  float v[4];
  static Vec zero() { return {{0, 0, 0, 0}}; }
  static Vec broadcast(float a) { return {{a, a, a, a}}; }
  static Vec load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  void store(float* p) const {
    for (int i = 0; i < 4; ++i) p[i] = v[i];
  }
  friend Vec operator+(Vec a, Vec b) {
    for (int i = 0; i < 4; ++i) a.v[i] += b.v[i];
    return a;
  }
};
/// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
  for (int i = 0; i < 4; ++i) c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
#endif

/// Sixteen values: one, two or four vectors.
struct Vec16 {
  static constexpr int parts = 16 / width;
  Vec part[parts];
  static Vec16 zero() { return broadcast(0.0F); }
  static Vec16 broadcast(float a) {
    Vec16 out;
    for (Vec& p : out.part) p = Vec::broadcast(a);
    return out;
  }
  static Vec16 load(const float* p) {
    Vec16 out;
    for (int i = 0; i < parts; ++i) out.part[i] = Vec::load(p + i * width);
    return out;
  }
  void store(float* p) const {
    for (int i = 0; i < parts; ++i) part[i].store(p + i * width);
  }
  friend Vec16 operator+(Vec16 a, Vec16 b) {
    for (int i = 0; i < parts; ++i) a.part[i] = a.part[i] + b.part[i];
    return a;
  }
};
inline Vec16 fma(const Vec16& a, const Vec16& b, Vec16 c) {
  for (int i = 0; i < Vec16::parts; ++i) c.part[i] = fma(a.part[i], b.part[i], c.part[i]);
  return c;
}
inline Vec16 operator*(const Vec16& a, const Vec16& b) {
  return fma(a, b, Vec16::broadcast(-0.0F)); // adding minus zero changes no product
}

/// The sum as a tree: values 8 apart, then 4, 2 and 1, with the same bits on every processor.
inline float sum(const Vec16& a) {
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#if defined(__AVX512F__)
  // Not the intrinsics for halves, in whose placeholders GCC 12 sees uninitialised values.
  const __m512 v = a.part[0].v;
  const __m256 eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const __m256 eight = _mm256_add_ps(a.part[0].v, a.part[1].v);
#endif
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float v[16];
  a.store(v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
#endif
}

using Float16 = float __attribute__((vector_size(64)));

/// Exchanges the rows and columns of a 16 x 16 block: four rounds of interleaving the first half with the
/// second.
inline void turn(Float16 (&a)[16]) {
  // Unrolled, the block stays in registers.
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    Float16 b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      b[2 * i] =
          __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                             30, 15, 31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
}

} // namespace pluvia::simd
