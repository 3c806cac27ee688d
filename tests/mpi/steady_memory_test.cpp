// ranks: 1 2
// Training steps and forecasts after the first ones take no new memory from the system: neither more heap, as
// the C library counts it, nor pages, as the kernel does.
#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <limits>

#include <gtest/gtest.h>

#include "pluvia/bench/network_timing.hpp"
#include "pluvia/core/settings.hpp"

namespace pluvia {
namespace {

struct Held {
  std::size_t heap;
  long pages;
};
Held held() {
  const struct mallinfo2 info = mallinfo2();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {info.arena + info.hblkhd, usage.ru_minflt};
}

TEST(SteadyMemory, LaterStepsTakeNone) {
  mallopt(M_MMAP_MAX, 0); // as the program does
  mallopt(M_TRIM_THRESHOLD, -1);
  Settings settings;
  settings.model.channels = {16, 32, 32};
  settings.model.history = 4;
  settings.target.leads_hours = {6, 12};
  const Communicator world(MPI_COMM_WORLD);
  NetworkTiming network(world, settings, Precision::f32, Device::host, 96, 96);
  for (int i = 0; i < 3; ++i) network.step(), network.forecast();
  // MPI takes some for itself now and then, and the system may take idle pages away, which then come back as
  // new: the leanest of four passes counts. What a step takes for good it takes in all of them.
  constexpr int passes = 4, steps = 5;
  Held least{std::numeric_limits<std::size_t>::max(), std::numeric_limits<long>::max()};
  const TensorAllocations before = tensor_allocations();
  for (int pass = 0; pass < passes; ++pass) {
    const Held first = held();
    for (int i = 0; i < steps; ++i) network.step(), network.forecast();
    const Held last = held();
    least = {std::min(least.heap, last.heap - first.heap), std::min(least.pages, last.pages - first.pages)};
  }
  const auto bytes = static_cast<std::size_t>(tensor_allocations().bytes - before.bytes);
  EXPECT_GT(bytes, std::size_t{passes} * steps * 20 << 20)
      << "tensors must be allocated, or their memory says nothing";
  EXPECT_LE(least.heap, std::size_t{1} << 20);
  EXPECT_LE(least.pages, 256);
}

} // namespace
} // namespace pluvia
