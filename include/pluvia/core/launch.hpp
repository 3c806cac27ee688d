#pragma once
// One source for both kinds of accelerator: files named *_kernels.cpp are compiled as CUDA where there is
// CUDA.
#include <cstdint>

#include "pluvia/core/device.hpp"
#ifdef __CUDACC__
#include "pluvia/core/cuda.hpp"
#else
#include "pluvia/core/parallel_for.hpp"
#endif

namespace pluvia {

#ifdef __CUDACC__

template <class F> __global__ void run_kernel(std::int64_t n, F f) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    f(i);
}

/// Calls f(i) for i in [0, n) on the accelerator, in any order and at once. f is copied there, with pointers
/// to the accelerator's memory. Local.
template <class F> void launch(std::int64_t n, F f) {
  if (n <= 0) return;
  constexpr std::int64_t threads = 128, most = 1 << 20;
  const std::int64_t blocks = (n + threads - 1) / threads;
  run_kernel<<<static_cast<unsigned>(blocks < most ? blocks : most), threads, 0, cuda::stream()>>>(n, f);
  cuda::check(cudaGetLastError(), "A kernel did not start");
}

#else

namespace accelerator {
/// Puts something at the end of the pretend accelerator's work; it may touch its memory.
void ask(std::function<void()> work);
} // namespace accelerator

template <class F> void launch(std::int64_t n, F f) {
  if (n > 0) accelerator::ask([n, f] { parallel_for(n, f); });
}

#endif

} // namespace pluvia
