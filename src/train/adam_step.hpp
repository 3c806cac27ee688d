#pragma once
#include <cmath>

#include "adam_kernels.hpp"

namespace pluvia {

/// One element's update.
PLUVIA_ANYWHERE inline void adam_step(float grad, float shrink, const kernels::AdamRates& rates,
                                      float gradient_scale, float& value, float& first, float& second,
                                      float& average) {
  const float g = gradient_scale * grad;
  first = std::fma(0.9F, first, 0.1F * g);
  second = std::fma(0.98F, second, 0.02F * g * g);
  value -= shrink * value + rates.rate * first / (std::sqrt(second) + rates.epsilon);
  average = std::fma(rates.average_decay, average - value, value);
}

} // namespace pluvia
