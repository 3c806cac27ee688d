#include "pluvia/train/precision.hpp"

#include <algorithm>
#include <cstdint>
#include <span>

#include "pluvia/comm/devices.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

Device agree_device(const Communicator& world, const Settings& settings) {
  const std::string& wanted = settings.parallel.device;
  const Device device =
      take_device(world, settings.train.exact && wanted == "auto" ? std::string("cpu") : wanted);
  if (device == Device::gpu && settings.train.exact)
    fail(ExitCode::usage, "train.exact is not for GPUs", "their sums of gradients depend on the process grid",
         "Use parallel.device=cpu, or leave train.exact out.");
  return device;
}

Precision agree_precision(const Communicator& comm, const std::string& wanted, Device device) {
  if (wanted == "f32") return Precision::f32;
  if (device == Device::gpu) // a pretend one multiplies bf16 as it does f32
    return wanted == "bf16" || accelerator::kind() == accelerator::Kind::cuda ? Precision::bf16
                                                                              : Precision::f32;
  std::int64_t least = static_cast<std::int64_t>(bf16_unit()), most = least;
  comm.all_reduce(std::span(&least, 1), Reduce::min);
  comm.all_reduce(std::span(&most, 1), Reduce::max);
  const bool everywhere = least != static_cast<std::int64_t>(Bf16Unit::none);
  if (everywhere && least == most) return Precision::bf16;
  if (wanted == "bf16")
    fail(ExitCode::usage, "train.precision is bf16",
         everywhere ? "some processors of this run multiply it as matrices (AMX), others as vectors "
                      "(AVX512_BF16), with other bits"
                    : "a processor of this run does not multiply bf16 (AVX512_BF16 or AMX), or the program "
                      "was built for others",
         everywhere ? "Use train.precision=auto, or processors of one kind."
                    : "Use train.precision=auto, or build with -DPLUVIA_ARCH=native on such a machine.");
  return Precision::f32;
}

const char* name_of(Precision precision) {
  return precision == Precision::bf16 ? "bf16" : "f32";
}

Tape::Keep keep_of(const TrainSettings& settings) {
  return settings.keep == "blocks" ? Tape::Keep::blocks : Tape::Keep::everything;
}

WholeBlocks whole_blocks(const Settings& settings) {
  if (!settings.train.exact) return {};
  const auto leads = static_cast<Index>(settings.target.leads_hours.size());
  const Index frames = settings.parallel.block_frames;
  return {settings.parallel.block, frames > 0 ? frames : std::max<Index>(settings.model.history, leads)};
}

GradientBlocks blocks_of(const Settings& settings, const Decomposition& tiles) {
  const WholeBlocks blocks = whole_blocks(settings);
  const ChannelShare share = tiles.channel_share();
  return {blocks.cells,  tiles.tile(0).height(), tiles.tile(0).width(),
          blocks.frames, share.member,           share.members};
}

} // namespace pluvia
