#pragma once
#include <functional>

#include "pluvia/bench/network_timing.hpp"

namespace pluvia {

/// What a network holds in memory [bytes], each on the rank that holds most.
struct MemoryUse {
  // The most so far after a forecast, and after a step (where those are timed); how much more than at rest.
  double forecast_held = 0, forecast_grown = 0, held = 0, grown = 0;
  double weights = 0;     ///< and as much for gradients
  double activations = 0; ///< to keep for the backward pass, by the plan
  double optimiser = 0;   ///< its state
};
/// By running a forecast and a step. Collective.
MemoryUse measure_memory(const Communicator& comm, NetworkTiming& network, const Settings& settings);

/// What a run takes: tensors that are allocated, and pages that the system hands out for them and all else.
struct Taken {
  double tensors = 0, bytes = 0, pages = 0;
};
/// Of the second run in a row, for the first settles the heap after what came before; the most of all ranks.
/// Collective.
Taken taken_by(const Communicator& comm, const std::function<void()>& run);

} // namespace pluvia
