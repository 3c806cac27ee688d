#pragma once
#include <vector>

#include "pluvia/core/tensor.hpp"

namespace pluvia::kernels {

/// Part of a parameter, with what Adam keeps for it, in the accelerator's memory.
struct AdamPiece {
  const float* grad;
  float *value = nullptr, *first = nullptr, *second = nullptr, *average = nullptr;
  Index size = 0;
  float shrink = 0; ///< of the weights, in each update
};
struct AdamRates {
  float rate, gradient_scale, average_decay, epsilon;
};

// On the accelerator, for all parameters at once; Local.
void update(const std::vector<AdamPiece>& pieces, const AdamRates& rates);
/// Of each piece's gradient.
std::vector<double> squares(const std::vector<AdamPiece>& pieces);

} // namespace pluvia::kernels
