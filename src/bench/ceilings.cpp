#include "pluvia/bench/ceilings.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <oneapi/dnnl/dnnl.hpp>

#include "pluvia/core/device_array.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

Contender convolution_ceiling(const Communicator& comm, Precision precision) {
  using dnnl::memory;
  constexpr std::int64_t frames = 8, edge = 32, channels = 64;
  const auto type = precision == Precision::f32 ? memory::data_type::f32 : memory::data_type::bf16;
  struct Run {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    memory x, w, y;
    dnnl::convolution_forward convolution;
  };
  auto run = std::make_shared<Run>();
  const memory::desc x({1, channels, frames + 2, edge + 2, edge + 2}, type, memory::format_tag::ndhwc),
      w({channels, channels, 3, 3, 3}, type, memory::format_tag::any),
      y({1, channels, frames, edge, edge}, type, memory::format_tag::ndhwc);
  const dnnl::convolution_forward::primitive_desc description({dnnl::prop_kind::forward_training,
                                                               dnnl::algorithm::convolution_direct,
                                                               x,
                                                               w,
                                                               y,
                                                               {1, 1, 1},
                                                               {0, 0, 0},
                                                               {0, 0, 0}},
                                                              run->engine);
  const auto filled = [&](const memory::desc& shape) {
    memory out(shape, run->engine);
    std::fill_n(static_cast<std::byte*>(out.get_data_handle()), shape.get_size(),
                std::byte{0x3c}); // about 0.01
    return out;
  };
  run->x = filled(x), run->w = filled(description.weights_desc()), run->y = filled(y);
  run->convolution = dnnl::convolution_forward(description);
  constexpr int repeats = 4;
  const auto once = [run] {
    for (int i = 0; i < repeats; ++i)
      run->convolution.execute(run->stream,
                               {{DNNL_ARG_SRC, run->x}, {DNNL_ARG_WEIGHTS, run->w}, {DNNL_ARG_DST, run->y}});
    run->stream.wait();
  };
  return {precision == Precision::f32 ? "oneDNN convolution f32" : "oneDNN convolution bf16", once,
          2.0 * repeats * frames * edge * edge * 27 * channels * channels * comm.size()};
}

Contender memory_ceiling(const Communicator& comm) {
  constexpr std::size_t values = std::size_t{16} << 20; // 64 MiB in each of three arrays
  constexpr std::int64_t slices = 256;
  auto arrays = std::make_shared<std::vector<float>>(3 * values, 1.0F);
  const auto once = [arrays] {
    float *a = arrays->data(), *b = a + values, *c = b + values;
    parallel_for(slices, [&](std::int64_t slice) {
      constexpr std::size_t length = values / slices;
      const std::size_t first = static_cast<std::size_t>(slice) * length;
      for (std::size_t i = first; i < first + length; ++i) a[i] = b[i] + 0.5F * c[i];
    });
  };
  return {"memory, a = b + s c", once, 3.0 * values * sizeof(float) * comm.size()};
}

Contender accelerator_copy_ceiling(const Communicator& comm) {
  constexpr std::size_t bytes = std::size_t{256} << 20;
  struct Pair {
    DeviceArray<std::byte> from = DeviceArray<std::byte>(bytes), to = DeviceArray<std::byte>(bytes);
  };
  auto pair = std::make_shared<Pair>();
  const auto once = [pair] {
    accelerator::copy(pair->to.data(), pair->from.data(), bytes);
    accelerator::wait();
  };
  return {"accelerator, a = b", once, 2.0 * bytes * comm.size()};
}

MessageCeiling message_ceiling(const Communicator& comm) {
  const auto half_round_trip = [&](std::size_t bytes, int trips) {
    std::vector<std::byte> data(bytes);
    std::vector<double> seconds;
    for (int i = 0; i <= trips; ++i) {
      comm.barrier();
      const auto start = std::chrono::steady_clock::now();
      if (comm.rank() < 2) bounce(comm, data, 1 - comm.rank());
      const double taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (i > 0) seconds.push_back(taken / 2);
    }
    double median = Timing{seconds}.median();
    comm.broadcast(std::as_writable_bytes(std::span(&median, 1)), 0);
    return median;
  };
  constexpr std::size_t large = std::size_t{4} << 20;
  return {half_round_trip(8, 101), static_cast<double>(large) / half_round_trip(large, 15)};
}

} // namespace pluvia
