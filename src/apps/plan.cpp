#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "commands.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/nn/footprint.hpp"
#include "pluvia/nn/operators.hpp"
#include "pluvia/nn/stages.hpp"
#include "pluvia/train/precision.hpp"
#include "pluvia/train/trainee.hpp"
#include "pluvia/train/training_state.hpp"

namespace pluvia::commands {

namespace {

constexpr double mib = 1024.0 * 1024.0;
constexpr int ranks_shown = 64;

/// The cells a run works on, and where that is known from.
struct Domain {
  Grid grid;
  std::string source;
};

/// From the archive, or from the simulation that is going to write it. Collective.
Domain find_domain(const Communicator& world, const Settings& s) {
  std::string unwritten;
  if (world.rank() == 0 && s.data.archive == std::vector{s.simulate.output} &&
      !std::filesystem::exists(s.simulate.output))
    unwritten = s.simulate.output;
  world.broadcast(unwritten, 0);
  if (!unwritten.empty()) {
    constexpr double km_per_degree = 111.2;
    const auto degrees = [&](std::int64_t n) {
      std::vector<double> out(static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<double>(i) * s.simulate.cell_km / km_per_degree;
      return out;
    };
    Domain domain{{}, unwritten + " as pluvia simulate would write it"};
    domain.grid.y = degrees(s.simulate.ny), domain.grid.x = degrees(s.simulate.nx);
    return domain;
  }
  ArchiveIndex index = index_archive(world, s.data.archive);
  return {std::move(index.grid), fmt::format("{}: {} frames of {} min", fmt::join(s.data.archive, ", "),
                                             index.frames.size(), index.step / 60)};
}

std::string cells(const Rect& r) {
  return fmt::format("{} x {}", r.height(), r.width());
}

/// The smallest and the largest tile of a level.
std::pair<int, int> extremes(const Tiling& tiling, int level) {
  std::vector<int> tiles(static_cast<std::size_t>(tiling.ranks()));
  std::iota(tiles.begin(), tiles.end(), 0);
  const auto [low, high] =
      std::ranges::minmax_element(tiles, {}, [&](int tile) { return tiling.tile(tile, level).cells(); });
  return {*low, *high};
}

/// The tiles of each level, and how evenly the cells are shared out.
std::string describe_levels(const Tiling& tiling, const ModelSettings& model) {
  const int merged = tiling.levels() - static_cast<int>(model.channels.size());
  std::string out = fmt::format("{:>5}  {:>8}  {:>13}  {:>22}  {:>22}  {}\n", "level", "channels", "cells",
                                "smallest tile", "largest tile", "largest / mean");
  for (int level = 0; level < tiling.levels(); ++level) {
    const auto [smallest, largest] = extremes(tiling, level);
    const Rect low = tiling.tile(smallest, level), high = tiling.tile(largest, level),
               all = tiling.domain(level);
    const std::string channels =
        level < merged ? "-" : std::to_string(model.channels[static_cast<std::size_t>(level - merged)]);
    out += fmt::format("{:>5}  {:>8}  {:>13}  {:>12} = {:>7}  {:>12} = {:>7}  {:.2f}\n", level, channels,
                       cells(all), cells(low), low.cells(), cells(high), high.cells(),
                       static_cast<double>(high.cells() * tiling.ranks()) / static_cast<double>(all.cells()));
  }
  return out;
}

/// The samples of a step that a replica has at most.
std::int64_t most_samples(const Settings& s) {
  return (s.train.batch + s.parallel.replicas - 1) / s.parallel.replicas;
}

/// The ranks that share a domain: those that this run has for it, or, when it has too few or the process grid
/// is given in full, those of the job that is planned. Collective.
int ranks_of_domain(const Communicator& world, const Settings& s) {
  const ParallelSettings& p = s.parallel;
  const std::int64_t others = p.replicas * p.stages * p.tensor, // the limits of all leave room in 64 bits
      wanted = p.rows > 0 && p.cols > 0 ? p.rows * p.cols * p.time : 0;
  if (others * wanted > std::numeric_limits<int>::max())
    fail(ExitCode::usage, fmt::format("{} ranks cannot be planned for", others * wanted),
         "so many MPI does not count", "Lower parallel.rows and parallel.cols.");
  if (wanted > 0) return static_cast<int>(wanted);
  if (world.size() < others * p.time) return static_cast<int>(p.time);
  return make_process_grid(world, static_cast<int>(p.replicas), static_cast<int>(p.stages),
                           static_cast<int>(p.tensor))
      .tiles.size();
}

/// How the channels of the blocks are shared out over the ranks that hold the same cells, and how much of the
/// arithmetic is left to the one that does most.
std::string describe_shares(const Partition& partition, const Settings& s, const StUnetPorts& ports) {
  const int ranks = static_cast<int>(s.parallel.tensor);
  const std::vector<int> shared = shared_levels(s.model, ranks);
  std::string out;
  for (const int level : shared_levels(s.model, 1)) {
    const std::int64_t channels = s.model.channels[static_cast<std::size_t>(level)];
    if (std::ranges::find(shared, level) == shared.end())
      out += fmt::format("level {}: {} channels on every rank, too few to share out\n", level, channels);
    else
      out += fmt::format("level {}: {} channels, up to {} a rank\n", level, channels,
                         ChannelShare{ranks - 1, ranks}.size(channels));
  }
  const auto flop = [&](const ChannelShare& share) {
    double sum = 0;
    for (const Operator& op : list_operators(s.model, ports, partition, 0, share))
      sum += op.work.flop + op.work.pull_flop;
    return sum;
  };
  return out + fmt::format("(the network's levels, from 0) A rank does {:.2f} of a tile's arithmetic.\n",
                           flop({ranks - 1, ranks}) / flop({}));
}

/// Of those ranks the one with most channels.
ChannelShare largest_share(const Settings& s) {
  const int ranks = static_cast<int>(s.parallel.tensor);
  return {ranks - 1, ranks};
}

/// What the stages do and send each other, and how the samples of a step pass through them.
std::string describe_stages(const Stages& stages, const Partition& partition, const Settings& s,
                            const StUnetPorts& ports) {
  constexpr double giga = 1e9;
  constexpr int width = 100;
  const std::int64_t samples = most_samples(s);
  const std::vector<StageCosts> costs = stage_costs(stages, s.model, ports, partition, 0, largest_share(s));
  double most = 0, all = 0;
  for (const StageCosts& c : costs) {
    const double stage = c.forward + c.backward_inputs + c.backward_weights;
    most = std::max(most, stage), all += stage;
  }
  std::string out = fmt::format("{:>5}  {:<24}  {:>13}  {:>9}  {:>10}  {:>6}  {:>19}\n{:>39}  {:>6}  {:>9}  "
                                "{:>10}  {:>6}  {:>19}\n",
                                "stage", "blocks", "GFLOP forward", "to inputs", "to weights", "share",
                                "activations held", "", "", "", "", "", "MiB, at most");
  for (int i = 0; i < stages.count(); ++i) {
    const StageCosts& c = costs[static_cast<std::size_t>(i)];
    out += fmt::format("{:>5}  {:<24}  {:>13.2f}  {:>9.2f}  {:>10.2f}  {:>6.2f}  {:>19.1f}\n", i,
                       describe(stages.pieces[static_cast<std::size_t>(i)], s.model), c.forward / giga,
                       c.backward_inputs / giga, c.backward_weights / giga,
                       (c.forward + c.backward_inputs + c.backward_weights) / all,
                       static_cast<double>(held_bytes(stages, i, samples, s.model, ports, partition, 0,
                                                      keep_of(s.train), largest_share(s))) /
                           mib);
  }
  out += "(of one sample on the first rank of the stage; encode, attend, skip, decode and the network's "
         "level)\n";
  for (const Stages::Crossing& c : stages.crossings)
    out += fmt::format("stage {} sends {} to stage {}, {:.2f} MiB a sample, and gets as much back\n", c.from,
                       c.skip == Stages::Crossing::main_line ? "what it made"
                                                             : fmt::format("the skip of level {}", c.skip),
                       c.to,
                       static_cast<double>(crossing_shape(stages, c, s.model, ports, partition, 0).size()) *
                           sizeof(float) / mib);
  std::vector<std::vector<Instruction>> lists;
  for (int i = 0; i < stages.count(); ++i)
    lists.push_back(list_instructions(stages.count(), i, static_cast<int>(samples), stages.links()));
  const auto even = simulate(lists, std::vector<StageCosts>(costs.size())), as_is = simulate(lists, costs);
  out += fmt::format(
      "A step of {} samples idles {:.1f} % of the stages' time if every pass took the same, {:.1f} % by "
      "their arithmetic (messages not counted):\n{}",
      samples, 100 * idle_share(*even), 100 * idle_share(*as_is), draw(*as_is, width));
  return out;
}

/// What each rank holds, keeps and sends; of very many ranks those with the smallest and the largest tile,
/// the first and the middle one.
std::string describe_ranks(const Partition& partition, const Settings& s, const StUnetPorts& ports) {
  const Tiling& tiling = partition.tiling;
  const int parts = partition.time.parts();
  const std::int64_t samples = most_samples(s);
  std::vector<int> shown(static_cast<std::size_t>(partition.ranks()));
  std::iota(shown.begin(), shown.end(), 0);
  if (partition.ranks() > ranks_shown) {
    const auto [smallest, largest] = extremes(tiling, 0);
    const int middle = tiling.rows() / 2 * tiling.cols() + tiling.cols() / 2;
    const std::set<int> few{0, smallest * parts, largest * parts, middle * parts};
    shown.assign(few.begin(), few.end());
  }
  std::string out =
      fmt::format("{:>5}  {:>27}  {:>9}  {:>7}  {:>7}  {:>15}  {:>13}  {:>12}\n{:>70}  {:>13}  {:>12}\n",
                  "rank", "rows x columns of level 0", "cells", "frames", "leads", "activations", "messages",
                  "halos sent", "MiB a sample", "sent a step", "MiB a step");
  const auto range = [](Span span) { return fmt::format("[{}, {})", span.from, span.to); };
  for (const int rank : shown) {
    const Rect r = partition.tile(rank, 0);
    const Footprint cost =
        estimate_footprint(s.model, ports, partition, rank, keep_of(s.train), every_piece, largest_share(s));
    out += fmt::format("{:>5}  {:>27}  {:>9}  {:>7}  {:>7}  {:>15.1f}  {:>13}  {:>12.2f}\n", rank,
                       fmt::format("[{}, {}) x [{}, {})", r.y0, r.y1, r.x0, r.x1), r.cells(),
                       range(partition.frames(rank)), range(partition.leads(rank)),
                       static_cast<double>(cost.activation_bytes + cost.inside_bytes) / mib,
                       samples * (cost.forward.messages + cost.backward.messages),
                       static_cast<double>(samples * (cost.forward.bytes + cost.backward.bytes)) / mib);
  }
  if (shown.size() < static_cast<std::size_t>(partition.ranks()))
    out += fmt::format("(the first, the middle and those with the smallest and largest tile of {} ranks)\n",
                       partition.ranks());
  return out;
}

} // namespace

ExitCode plan(const Communicator& world, const Settings& s, const Log& log) {
  const SampleRule rule = make_sample_rule(s);
  const Domain domain = find_domain(world, s);
  const int replicas = static_cast<int>(s.parallel.replicas), parts = static_cast<int>(s.parallel.time),
            count = static_cast<int>(s.parallel.stages), tensor = static_cast<int>(s.parallel.tensor);
  require_stages(s.model, count, samples_for_replica(s), "train.batch");
  require_shares(s.model, tensor);
  const Partition partition = layout(s, domain.grid, ranks_of_domain(world, s), whole_blocks(s));
  const Tiling& tiling = partition.tiling;
  const StUnetPorts ports = ports_of(s);
  const Stages stages = cut_stages(s.model, ports, tiling, count);
  StUnet network = make_network(s, ports);
  const Index parameters = network.parameters().size();
  const int ranks = replicas * count * tensor * partition.ranks();

  std::string out =
      fmt::format("grid        {} x {} cells{} ({})\n", domain.grid.ny(), domain.grid.nx(),
                  tiling.x_edge() == Edge::periodic ? ", closed in longitude" : "", domain.source);
  out += fmt::format("ranks       {} = {}{}{}{} rows x {} columns{}\n", ranks,
                     replicas > 1 ? fmt::format("{} replicas x ", replicas) : "",
                     count > 1 ? fmt::format("{} stages x ", count) : "",
                     tensor > 1 ? fmt::format("{} shares of the channels x ", tensor) : "", tiling.rows(),
                     tiling.cols(), parts > 1 ? fmt::format(" x {} parts of the frames", parts) : "");
  out +=
      fmt::format("sample      {} frames of {} min, {} input channels; {} leads, {} classes\n",
                  s.model.history, s.model.frame_minutes, rule.channels(), rule.leads.size(), rule.classes());
  const double weights = static_cast<double>(parameters * static_cast<Index>(sizeof(float))) / mib,
               kept = static_cast<double>(ParameterShards::most_of(parameters, ranks) * kept_per_weight *
                                          static_cast<Index>(sizeof(float))) /
                      mib;
  out += fmt::format(
      "parameters  {}: {:.1f} MiB on every rank, {} times that in training (gradients{}; summed once a "
      "step)\n",
      parameters, weights, s.train.exact ? "six" : "two", s.train.exact ? ", exact sums" : "");
  out += fmt::format(
      "optimiser   {:.1f} MiB on a rank: its share of two moments, the average, the best so far and all "
      "of them as saved last\n\n",
      kept);
  out += describe_levels(tiling, s.model) + "\n";
  if (tensor > 1) out += describe_shares(partition, s, ports) + "\n";
  if (count > 1) out += describe_stages(stages, partition, s, ports) + "\nAll stages of a tile together:\n";
  if (tensor > 1)
    out += "Of the ranks that hold a tile, the one with most channels; it sends halos and channels:\n";
  out += describe_ranks(partition, s, ports);
  out += fmt::format(
      "\nA step is {} samples, {}one after the other. Add up to {:.0f} MiB of decoded frames a rank "
      "(data.cache_mib).\n",
      s.train.batch, replicas > 1 ? fmt::format("up to {} a replica, ", most_samples(s)) : "",
      s.data.cache_mib);
  if (log.voice() != Log::Voice::silent) std::fputs(out.c_str(), stdout);
  return ExitCode::done;
}

} // namespace pluvia::commands
