#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "commands.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/io/grid.hpp"

namespace pluvia::commands {

namespace {

/// The cells a run works on, and where that is known from.
struct Domain {
  Index ny = 0, nx = 0;
  Edge x_edge = Edge::closed;
  std::string source;
};

/// From the archive, or from the simulation that is going to write it. Collective.
Domain find_domain(const Communicator& world, const Settings& s) {
  std::string unwritten;
  if (world.rank() == 0 && s.data.archive == std::vector{s.simulate.output} &&
      !std::filesystem::exists(s.simulate.output))
    unwritten = s.simulate.output;
  world.broadcast(unwritten, 0);
  if (!unwritten.empty())
    return {s.simulate.ny, s.simulate.nx, s.grid.periodic_x == "yes" ? Edge::periodic : Edge::closed,
            unwritten + ", as pluvia simulate would write it"};
  const ArchiveIndex index = index_archive(world, s.data.archive);
  const bool closes =
      s.grid.periodic_x == "yes" || (s.grid.periodic_x == "auto" && closes_in_longitude(index.grid));
  return {index.grid.ny(), index.grid.nx(), closes ? Edge::periodic : Edge::closed,
          fmt::format("{}, {} frames", fmt::join(s.data.archive, ", "), index.frames.size())};
}

std::string cells(const Rect& r) {
  return fmt::format("{} x {}", r.height(), r.width());
}

/// The tiles of each level, and how evenly the cells are shared out.
std::string describe_tiles(const Tiling& tiling) {
  std::string out = fmt::format("{:>5}  {:>13}  {:>22}  {:>22}  {}\n", "level", "cells", "smallest tile",
                                "largest tile", "largest / mean");
  for (int level = 0; level < tiling.levels(); ++level) {
    const auto larger = [&](int a, int b) {
      return tiling.tile(a, level).cells() < tiling.tile(b, level).cells();
    };
    int smallest = 0, largest = 0;
    for (int rank = 1; rank < tiling.ranks(); ++rank) {
      if (larger(rank, smallest)) smallest = rank;
      if (larger(largest, rank)) largest = rank;
    }
    const Rect low = tiling.tile(smallest, level), high = tiling.tile(largest, level),
               all = tiling.domain(level);
    out += fmt::format("{:>5}  {:>13}  {:>12} = {:>7}  {:>12} = {:>7}  {:.2f}\n", level, cells(all),
                       cells(low), low.cells(), cells(high), high.cells(),
                       static_cast<double>(high.cells() * tiling.ranks()) / static_cast<double>(all.cells()));
  }
  return out;
}

/// Rows [from, to) and columns [from, to) of every rank, level by level.
std::string describe_ranks(const Tiling& tiling) {
  std::string out = fmt::format("{:>5}  {}\n", "rank", "rows and columns at each level");
  for (int rank = 0; rank < tiling.ranks(); ++rank) {
    out += fmt::format("{:>5}", rank);
    for (int level = 0; level < tiling.levels(); ++level) {
      const Rect r = tiling.tile(rank, level);
      out += fmt::format("  [{}, {}) x [{}, {})", r.y0, r.y1, r.x0, r.x1);
    }
    out += '\n';
  }
  return out;
}

} // namespace

ExitCode plan(const Communicator& world, const Settings& s, const Log& log) {
  const Domain domain = find_domain(world, s);
  // A grid given in full is planned for however many ranks run the plan.
  const bool given = s.parallel.rows > 0 && s.parallel.cols > 0;
  const auto ranks = given ? static_cast<int>(s.parallel.rows * s.parallel.cols) : world.size();
  const auto levels = static_cast<int>(s.model.channels.size()) + (s.model.input_merge == 2 ? 1 : 0);
  const GridShape shape =
      choose_grid_shape(domain.ny, domain.nx, levels, ranks, static_cast<int>(s.parallel.rows),
                        static_cast<int>(s.parallel.cols));
  const Tiling tiling(domain.ny, domain.nx, levels, shape.rows, shape.cols, domain.x_edge);
  std::string out =
      fmt::format("grid   {} x {} cells{} ({})\n", domain.ny, domain.nx,
                  domain.x_edge == Edge::periodic ? ", closed in longitude" : "", domain.source);
  out += fmt::format("ranks  {} = {} rows x {} columns\n\n", tiling.ranks(), tiling.rows(), tiling.cols());
  out += describe_tiles(tiling) + "\n" + describe_ranks(tiling);
  if (log.voice() != Log::Voice::silent) std::fputs(out.c_str(), stdout);
  return ExitCode::done;
}

} // namespace pluvia::commands
