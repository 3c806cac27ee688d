#include <cublas_v2.h>

#include <memory>

#include "pluvia/bench/ceilings.hpp"
#include "pluvia/core/cuda.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(ExitCode::failed, "A product of matrices failed", cublasGetStatusString(status),
         "Look at the driver's log.");
}

struct Product {
  static constexpr int size = 8192;
  cublasHandle_t handle = nullptr;
  DeviceArray<std::byte> a, b;
  DeviceArray<float> c;
  explicit Product(std::size_t value_bytes)
      : a(value_bytes * size * size), b(value_bytes * size * size), c(std::size_t{size} * size) {
    check(cublasCreate(&handle));
    check(cublasSetStream(handle, cuda::stream()));
    for (DeviceArray<std::byte>* operand : {&a, &b}) // about 0.01
      cuda::check(cudaMemsetAsync(operand->data(), 0x3c, operand->size(), cuda::stream()),
                  "Memory cannot be filled");
  }
  ~Product() { cublasDestroy(handle); }
};

} // namespace

Contender accelerator_product_ceiling(const Communicator& comm, Precision precision) {
  const bool f32 = precision == Precision::f32;
  auto work = std::make_shared<Product>(f32 ? 4 : 2);
  const auto once = [work, f32] {
    constexpr int n = Product::size;
    const float one = 1, zero = 0;
    const cudaDataType_t type = f32 ? CUDA_R_32F : CUDA_R_16BF;
    check(cublasGemmEx(work->handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, work->a.data(), type, n,
                       work->b.data(), type, n, &zero, work->c.data(), CUDA_R_32F, n,
                       f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    accelerator::wait();
  };
  const double n = Product::size;
  return {f32 ? "cuBLAS product f32" : "cuBLAS product bf16", once, 2 * n * n * n * comm.size()};
}

} // namespace pluvia
