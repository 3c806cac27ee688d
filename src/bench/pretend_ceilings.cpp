#include <memory>

#include "pluvia/bench/ceilings.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/launch.hpp"

namespace pluvia {

Contender accelerator_product_ceiling(const Communicator& comm, Precision precision) {
  constexpr std::int64_t n = 256;
  struct Matrices {
    DeviceArray<float> a = DeviceArray<float>(n * n), b = DeviceArray<float>(n * n),
                       c = DeviceArray<float>(n * n);
  };
  auto work = std::make_shared<Matrices>();
  const auto once = [work] {
    const float *a = work->a.data(), *b = work->b.data();
    float* c = work->c.data();
    launch(n, [=](std::int64_t row) {
      float sums[n] = {};
      for (std::int64_t k = 0; k < n; ++k)
        for (std::int64_t column = 0; column < n; ++column)
          sums[column] += a[row * n + k] * b[k * n + column];
      for (std::int64_t column = 0; column < n; ++column) c[row * n + column] = sums[column];
    });
    accelerator::wait();
  };
  return {precision == Precision::f32 ? "pretend product f32" : "pretend product bf16", once,
          2.0 * n * n * n * comm.size()};
}

} // namespace pluvia
