#include "pluvia/bench/memory_use.hpp"

#include <sys/resource.h>

#include "pluvia/bench/timing.hpp"
#include "pluvia/train/precision.hpp"

namespace pluvia {

namespace {

rusage usage_so_far() {
  rusage out{};
  getrusage(RUSAGE_SELF, &out);
  return out;
}

/// The most memory this process has held so far where it computes [bytes].
double peak_memory(Device device) {
  return device == Device::gpu ? static_cast<double>(accelerator::peak_bytes())
                               : static_cast<double>(usage_so_far().ru_maxrss) * 1024;
}

} // namespace

MemoryUse measure_memory(const Communicator& comm, NetworkTiming& network, const Settings& settings) {
  Trainee& t = network.trainee();
  const Decomposition& tiles = t.step_tiles;
  MemoryUse out;
  const double rest = peak_memory(t.device);
  network.forecast();
  out.forecast_held = largest(comm, peak_memory(t.device));
  out.forecast_grown = largest(comm, peak_memory(t.device) - rest);
  if (settings.bench.training) network.step();
  out.held = largest(comm, peak_memory(t.device));
  out.grown = largest(comm, peak_memory(t.device) - rest);
  out.weights = static_cast<double>(t.network.parameters().size()) * sizeof(float);
  out.activations = largest(
      comm, static_cast<double>(held_bytes(t.pipeline.stages(), t.grid.stage(), settings.bench.samples,
                                           settings.model, t.ports, tiles.partition(), tiles.comm().rank(),
                                           keep_of(settings.train), tiles.channel_share())));
  for (const Tensor* kept : {&t.adam.first, &t.adam.second, &t.adam.average})
    out.optimiser += static_cast<double>(kept->storage().size_bytes());
  out.optimiser = largest(comm, out.optimiser);
  return out;
}

Taken taken_by(const Communicator& comm, const std::function<void()>& run) {
  run();
  const TensorAllocations before = tensor_allocations();
  const auto pages_before = usage_so_far().ru_minflt;
  run();
  const TensorAllocations after = tensor_allocations();
  const auto pages = usage_so_far().ru_minflt - pages_before;
  return {largest(comm, static_cast<double>(after.count - before.count)),
          largest(comm, static_cast<double>(after.bytes - before.bytes)),
          largest(comm, static_cast<double>(pages))};
}

} // namespace pluvia
