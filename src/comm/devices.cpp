#include "pluvia/comm/devices.hpp"

#include <cstdint>
#include <map>
#include <span>

#include "pluvia/core/error.hpp"

namespace pluvia {

Device take_device(const Communicator& world, const std::string& wanted) {
  using accelerator::Kind;
  const bool pretend = accelerator::kind() == Kind::pretend;
  if (wanted == "cpu" || (wanted == "auto" && pretend)) return Device::host;
  if (wanted == (pretend ? "gpu" : "pretend"))
    fail(ExitCode::usage, "parallel.device is " + wanted,
         pretend ? "this program was built without CUDA" : "this program was built for real GPUs",
         pretend ? "Build with `cmake --preset cuda`, or use parallel.device=cpu."
                 : "Use parallel.device=gpu or cpu.");
  std::int64_t fewest = accelerator::count();
  world.all_reduce(std::span(&fewest, 1), Reduce::min);
  if (fewest == 0) {
    if (wanted == "auto") return Device::host;
    fail(ExitCode::usage, "parallel.device is gpu", "a node of this run has no GPU that CUDA can use",
         "Ask for GPUs (sbatch --gres=gpu:N), look at nvidia-smi, or use parallel.device=cpu.");
  }
  const Communicator node = world.split_by_node();
  accelerator::choose(node.rank() % accelerator::count());
  return Device::gpu;
}

std::string describe_devices(const Communicator& world, Device device) {
  if (device == Device::host) return "cpu";
  std::map<std::string, int> ranks;
  for (const std::string& name : world.all_gather(accelerator::name())) ++ranks[name];
  std::string out;
  for (const auto& [name, count] : ranks)
    out +=
        (out.empty() ? "" : ", ") + (count > 1 ? std::to_string(count) + " ranks on " : std::string()) + name;
  return out;
}

} // namespace pluvia
