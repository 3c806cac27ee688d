#include "pluvia/core/cuda.hpp"

#include <string>

#include "pluvia/core/device.hpp"
#include "pluvia/core/error.hpp"

namespace pluvia {

namespace cuda {

namespace {

cudaStream_t make_stream() {
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "No stream could be made");
  // What is released stays at hand for the next allocation.
  cudaMemPool_t pool = nullptr;
  int device = 0;
  check(cudaGetDevice(&device), "The GPU in use is not known");
  check(cudaDeviceGetDefaultMemPool(&pool, device), "The GPU has no memory pool");
  std::uint64_t keep = ~std::uint64_t{0};
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
        "The GPU's memory pool cannot be set up");
  return made;
}

} // namespace

cudaStream_t stream() {
  static const cudaStream_t one = make_stream();
  return one;
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const bool full = status == cudaErrorMemoryAllocation;
  fail(ExitCode::failed, what, std::string("CUDA says: ") + cudaGetErrorString(status),
       full ? "Use more ranks, each with a GPU, or fewer cells."
            : "Look at the driver's log (nvidia-smi, dmesg).");
}

} // namespace cuda

namespace accelerator {

Kind kind() {
  return Kind::cuda;
}

int count() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

void choose(int index) {
  cuda::check(cudaSetDevice(index), "The GPU cannot be taken");
}

std::string name() {
  int device = 0;
  cudaDeviceProp properties{};
  cuda::check(cudaGetDevice(&device), "The GPU in use is not known");
  cuda::check(cudaGetDeviceProperties(&properties, device), "The GPU does not say what it is");
  return properties.name;
}

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  cuda::check(cudaMallocAsync(&memory, bytes > 0 ? bytes : 1, cuda::stream()), "The GPU's memory is full");
  return memory;
}

void release(void* memory) noexcept {
  if (memory) cudaFreeAsync(memory, cuda::stream());
}

void to_accelerator(void* to, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda::stream()),
              "A copy to the GPU failed");
  // The host's memory has been read by now, but where the GPU reads it by itself.
  static const bool by_itself = [] {
    int device = 0, yes = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&yes, cudaDevAttrPageableMemoryAccess, device) == cudaSuccess && yes != 0;
  }();
  if (by_itself) wait();
}

void to_host(void* to, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda::stream()),
              "A copy from the GPU failed");
  wait();
}

void copy(void* to, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda::stream()),
              "A copy on the GPU failed");
}

void wait() {
  cuda::check(cudaStreamSynchronize(cuda::stream()), "Work on the GPU failed");
}

std::size_t peak_bytes() {
  cudaMemPool_t pool = nullptr;
  int device = 0;
  std::uint64_t bytes = 0;
  cuda::check(cudaGetDevice(&device), "The GPU in use is not known");
  cuda::check(cudaDeviceGetDefaultMemPool(&pool, device), "The GPU has no memory pool");
  cuda::check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &bytes),
              "The GPU does not say what it holds");
  return bytes;
}

} // namespace accelerator
} // namespace pluvia
