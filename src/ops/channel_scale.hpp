#pragma once
#include "pluvia/core/random.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/ops/pointwise.hpp"

namespace pluvia {

/// What drop_channels multiplies a channel of a sample by.
PLUVIA_ANYWHERE inline float channel_scale(const Dropout& dropout, std::uint64_t layer, std::uint64_t sample,
                                           Index channel) {
  const double drawn = random_uniform(dropout.seed, RandomPurpose::dropout,
                                      layer << 32 | static_cast<std::uint64_t>(channel), sample);
  return drawn < dropout.rate ? 0.0F : static_cast<float>(1 / (1 - dropout.rate));
}

} // namespace pluvia
