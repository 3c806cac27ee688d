#pragma once
// For sources that are compiled as CUDA.
#include <cuda_runtime.h>

namespace pluvia::cuda {

/// The stream that all of this process's work goes through, in order.
cudaStream_t stream();
/// Throws Error with CUDA's own words for what went wrong.
void check(cudaError_t status, const char* what);

} // namespace pluvia::cuda
