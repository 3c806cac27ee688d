#include "pluvia/comm/partition.hpp"

#include <algorithm>
#include <string>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

Index blocks_in(Index n, Index block) {
  return (n + block - 1) / block;
}

} // namespace

TimeAxis::TimeAxis(int parts, Index frames, Index leads, Index block)
    : parts_(parts), frames_(frames), leads_(leads), block_(block) {
  const auto require = [&](Index n, const char* what, const char* key) {
    if (blocks_in(n, block) < parts)
      fail(ExitCode::usage,
           std::to_string(n) + " " + what +
               " cannot be shared out over parallel.time = " + std::to_string(parts),
           block > 1 ? "exact training keeps " + std::to_string(block) + " together (parallel.block_frames)"
                     : "every part needs at least one",
           std::string("Lower parallel.time, ") + (block > 1 ? "or set parallel.block_frames=1." : key));
  };
  if (parts == 1) return;
  require(frames, "frames", "or raise model.history.");
  require(leads, "leads", "or add to target.leads_hours.");
}

Span TimeAxis::cut(Index n, int part) const {
  const Index blocks = blocks_in(n, block_);
  const auto edge = [&](Index i) { return std::min(blocks * i / parts_ * block_, n); };
  return {edge(part), edge(part + 1)};
}

std::string describe(const Partition& p) {
  return (p.time.parts() > 1 ? std::to_string(p.time.parts()) + " parts of the frames x " : std::string()) +
         std::to_string(p.tiling.rows()) + " x " + std::to_string(p.tiling.cols()) + " ranks";
}

} // namespace pluvia
