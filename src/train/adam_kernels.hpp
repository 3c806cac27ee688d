#pragma once
#include <vector>

#include "pluvia/core/device_array.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/core/upload.hpp"

namespace pluvia::kernels {

/// Part of a parameter, with what Adam keeps for it.
struct AdamPiece {
  const float* grad;
  float *value = nullptr, *first = nullptr, *second = nullptr, *average = nullptr;
  Index size = 0;
  bool decays = false;
};
struct AdamRates {
  float rate, average_decay, epsilon;
  float shrink; ///< of weights that decay, in each update
};

/// Euclidean norm of the gradients of pieces in the accelerator's memory, summed in f64 in an order that the
/// pieces alone decide. Local.
void gradient_norm(const DeviceArray<AdamPiece>& pieces, double* norm);
/// One update from the gradients, scaled so that their norm is at most clip_norm; none where it is not
/// finite. Norm and rates are read on the accelerator, when the kernel runs. Local.
void update(const DeviceArray<AdamPiece>& pieces, Index longest, const AdamRates* rates, double clip_norm,
            const double* norm);

} // namespace pluvia::kernels

namespace pluvia {

/// What updates on an accelerator keep there.
struct AdamThere {
  DeviceArray<kernels::AdamPiece> gradients = {}; ///< of all parameters
  DeviceArray<kernels::AdamPiece> own = {};       ///< of what this rank updates
  Index longest = 0;                              ///< piece
  DeviceArray<kernels::AdamRates> rates = DeviceArray<kernels::AdamRates>(1);
  Upload<kernels::AdamRates> next_rates = Upload<kernels::AdamRates>(rates.data(), 1);
};

} // namespace pluvia
