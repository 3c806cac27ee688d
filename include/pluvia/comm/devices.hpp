#pragma once
#include <string>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/device.hpp"

namespace pluvia {

/// Where a run computes, from parallel.device: auto (GPUs where the program was built for them and every node
/// has one, else the processors), cpu, gpu, or pretend (device code on the processor, for tests). Ranks of a
/// node take its GPUs in turn and may share one. Throws a usage Error on all ranks where what was asked for
/// is not there. Collective.
Device take_device(const Communicator& world, const std::string& wanted);

/// For people: "2 ranks on NVIDIA H100 80GB HBM3" or "cpu". Collective.
std::string describe_devices(const Communicator& world, Device device);

} // namespace pluvia
