#include "pluvia/bench/scaling_ladder.hpp"

#include <cstdint>
#include <numeric>
#include <span>

#include "pluvia/bench/network_timing.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/train/precision.hpp"

namespace pluvia {

LadderShape ladder_shape(const Settings& settings, int ranks) {
  const int parts = std::gcd(static_cast<int>(settings.parallel.time), ranks);
  return {parts, choose_grid_shape(settings.bench.ny, settings.bench.nx, levels_of(settings.model),
                                   ranks / parts, 0, 0, whole_blocks(settings).cells)};
}

std::vector<Rung> climb_ladder(const Communicator& world, const Settings& s, Precision precision,
                               Device device) {
  std::vector<Rung> out;
  for (const bool strong : {true, false}) {
    double first = 0;
    for (const std::int64_t wanted : s.bench.ranks) {
      const int ranks = static_cast<int>(wanted);
      const auto [parts, shape] = ladder_shape(s, ranks);
      const Index ny = strong ? s.bench.ny : s.bench.ny * shape.rows * parts,
                  nx = strong ? s.bench.nx : s.bench.nx * shape.cols;
      const Communicator part = world.split(world.rank() < ranks ? 0 : 1, world.rank());
      double figures[4] = {};
      if (world.rank() < ranks) {
        Settings automatic = s;
        automatic.parallel.rows = automatic.parallel.cols = 0;
        automatic.parallel.replicas = automatic.parallel.stages = automatic.parallel.tensor = 1;
        automatic.bench.samples = 1;
        automatic.parallel.time = parts;
        NetworkTiming network(part, automatic, precision, device, ny, nx);
        double wait = 0, seconds = 0;
        const auto step = [&] {
          const StepPhases p = network.step();
          wait += p.halo.wait_seconds;
          seconds += p.total();
        };
        const Timing t = time_in_turn(part, {{"step", step, 0}}, static_cast<int>(s.bench.rounds))[0];
        figures[0] = t.median(), figures[1] = t.least(), figures[2] = t.most();
        figures[3] = largest(part, wait / seconds);
      }
      world.broadcast(std::as_writable_bytes(std::span(figures)), 0);
      if (first == 0) first = figures[0] * (strong ? ranks : 1);
      const double efficiency = first / (figures[0] * (strong ? ranks : 1));
      out.push_back(
          {strong, ranks, parts, ny, nx, figures[0], figures[1], figures[2], figures[3], efficiency});
    }
  }
  return out;
}

} // namespace pluvia
