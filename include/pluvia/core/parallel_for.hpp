#pragma once
#include <cstdint>

namespace pluvia {

/// Calls f(i) for i in [0, n) on this rank's threads. Every i must write its own outputs: which thread runs
/// it must not matter, so that the thread count cannot change bits.
template <class F> void parallel_for(std::int64_t n, F&& f) {
#pragma omp parallel for schedule(static) if (n > 1)
  for (std::int64_t i = 0; i < n; ++i) f(i);
}

} // namespace pluvia
