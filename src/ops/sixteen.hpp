#pragma once
#include "pluvia/core/device.hpp"

namespace pluvia::kernels {

/// Channels side by side of one cell: a head, or what the processor adds up in one vector. They begin at
/// multiples of 16 bytes, as those of tensors do whose channels are multiples of 16, so that GPUs move four
/// values at once.
struct alignas(16) Sixteen {
  float v[16];
};
PLUVIA_ANYWHERE inline Sixteen load(const float* channels) {
  return *reinterpret_cast<const Sixteen*>(channels);
}
PLUVIA_ANYWHERE inline void store(const Sixteen& values, float* channels) {
  *reinterpret_cast<Sixteen*>(channels) = values;
}

/// As simd::sum adds them: values 8 apart, then 4, 2 and 1.
PLUVIA_ANYWHERE inline float tree_sum(Sixteen a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}

} // namespace pluvia::kernels
