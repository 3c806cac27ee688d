#pragma once
#include <vector>

#include "pluvia/bench/timing.hpp"
#include "pluvia/core/precision.hpp"

namespace pluvia {

// What the machine itself can do, as contenders to be timed beside the program.

/// oneDNN's 3 x 3 x 3 convolution, channels last, of 8 frames of 32 x 32 cells, 64 to 64 channels: where it
/// comes closest to the processor's peak. amount = floating-point operations of one run on all threads of all
/// ranks. bf16 needs has_native_bf16() of ops.
Contender convolution_ceiling(const Communicator& comm, Precision precision);

/// a = b + s c over arrays far larger than the caches; amount = bytes read and written on all ranks.
Contender memory_ceiling(const Communicator& comm);

/// A product of square matrices on the accelerator (cuBLAS, 8192 rows, sums in f32), as near to its peak as
/// libraries come; amount = floating-point operations of one run on all ranks.
Contender accelerator_product_ceiling(const Communicator& comm, Precision precision);
/// A copy within the accelerator's memory; amount = bytes read and written on all ranks.
Contender accelerator_copy_ceiling(const Communicator& comm);

/// Latency and bandwidth between the first two ranks, round trips of 8 bytes and 4 MiB halved.
struct MessageCeiling {
  double latency_seconds = 0, bytes_per_second = 0;
};
/// Collective over a communicator of at least two ranks.
MessageCeiling message_ceiling(const Communicator& comm);

} // namespace pluvia
