#pragma once
// For sources that are compiled as CUDA.
#include <cuda_runtime.h>

namespace pluvia::cuda {

/// The stream that this process's work goes through, in order, but for messages and copies beside it.
cudaStream_t stream();
/// Throws Error with CUDA's own words for what went wrong.
void check(cudaError_t status, const char* what);

} // namespace pluvia::cuda
