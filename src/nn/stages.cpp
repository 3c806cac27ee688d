#include "pluvia/nn/stages.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "pluvia/core/error.hpp"
#include "pluvia/nn/footprint.hpp"
#include "pluvia/nn/operators.hpp"

namespace pluvia {

namespace {

double total(const StageCosts& c) {
  return c.forward + c.backward_inputs + c.backward_weights;
}

std::vector<StageCosts> piece_costs(const ModelSettings& settings, const StUnetPorts& ports,
                                    const Partition& partition, int rank, const ChannelShare& share = {}) {
  std::vector<StageCosts> out(list_pieces(settings).size(), {0, 0, 0});
  for (const Operator& op : list_operators(settings, ports, partition, rank, share)) {
    StageCosts& piece = out[static_cast<std::size_t>(op.piece)];
    piece.forward += op.work.flop;
    piece.backward_inputs += op.work.pull_flop - op.weight_flop;
    piece.backward_weights += op.weight_flop;
  }
  return out;
}

/// The least that the largest of `stages` parts of costs[from, ...) can be, and where they begin.
double cut(const std::vector<double>& costs, std::size_t from, int stages, std::vector<std::size_t>& begins) {
  if (stages == 1) {
    begins = {from};
    return std::accumulate(costs.begin() + static_cast<std::ptrdiff_t>(from), costs.end(), 0.0);
  }
  double least = std::numeric_limits<double>::infinity(), first = 0;
  for (std::size_t to = from + 1; to + static_cast<std::size_t>(stages) <= costs.size() + 1; ++to) {
    first += costs[to - 1];
    std::vector<std::size_t> rest;
    const double most = std::max(first, cut(costs, to, stages - 1, rest));
    if (most >= least) continue;
    least = most;
    begins = {from};
    begins.insert(begins.end(), rest.begin(), rest.end());
  }
  return least;
}

/// Of the piece of a kind and level.
int stage_of(const Stages& stages, const std::vector<Piece>& pieces, Piece::Kind kind, int level) {
  const auto piece =
      std::ranges::find_if(pieces, [&](const Piece& p) { return p.kind == kind && p.level == level; }) -
      pieces.begin();
  return static_cast<int>(std::ranges::find_if(stages.pieces, [&](Span s) { return piece < s.to; }) -
                          stages.pieces.begin());
}

} // namespace

std::vector<StageLink> Stages::links() const {
  std::vector<StageLink> out;
  for (const Crossing& c : crossings)
    if (std::ranges::find(out, StageLink{c.from, c.to}) == out.end()) out.push_back({c.from, c.to});
  return out;
}

void require_stages(const ModelSettings& settings, int stages, std::int64_t samples, const std::string& key) {
  const auto pieces = list_pieces(settings).size();
  if (static_cast<std::size_t>(stages) > pieces)
    fail(ExitCode::usage, "The network cannot be cut into parallel.stages = " + std::to_string(stages),
         "it has " + std::to_string(pieces) + " blocks to cut between", "Lower parallel.stages.");
  if (samples < stages)
    fail(ExitCode::usage, std::to_string(stages) + " stages cannot all work at once",
         key + " gives a replica " + std::to_string(samples) + " samples in a step",
         "Raise " + key + " so that there is one for each stage, or lower parallel.stages.");
}

Stages cut_stages(const ModelSettings& settings, const StUnetPorts& ports, const Tiling& tiling, int stages) {
  const Rect domain = tiling.domain(0);
  const Tiling whole(domain.height(), domain.width(), tiling.levels(), 1, 1, tiling.x_edge());
  std::vector<double> costs;
  for (const StageCosts& piece : piece_costs(settings, ports, whole, 0)) costs.push_back(total(piece));
  std::vector<std::size_t> begins;
  cut(costs, 0, stages, begins);
  begins.push_back(costs.size());

  Stages out;
  for (std::size_t s = 0; s + 1 < begins.size(); ++s)
    out.pieces.push_back({static_cast<Index>(begins[s]), static_cast<Index>(begins[s + 1])});
  for (int s = 0; s + 1 < stages; ++s) out.crossings.push_back({s, s + 1});
  const std::vector<Piece> pieces = list_pieces(settings);
  for (const Piece& p : pieces) {
    if (p.kind != Piece::Kind::decode) continue;
    const int from = stage_of(out, pieces, Piece::Kind::skip, p.level),
              to = stage_of(out, pieces, Piece::Kind::decode, p.level);
    if (from != to) out.crossings.push_back({from, to, p.level});
  }
  return out;
}

Shape crossing_shape(const Stages& stages, const Stages::Crossing& crossing, const ModelSettings& settings,
                     const StUnetPorts& ports, const Partition& partition, int rank) {
  const bool divided = partition.time.parts() > 1;
  const Index frames = divided ? partition.frames(rank).size() : settings.history,
              leads = divided ? partition.leads(rank).size() : static_cast<Index>(ports.lead_hours.size());
  const int merged = settings.input_merge == 2 ? 1 : 0,
            coarsest = static_cast<int>(settings.channels.size()) - 1;
  const auto shape = [&](Index t, int level) {
    const Rect tile = partition.tile(rank, merged + level);
    return Shape{1, t, tile.height(), tile.width(), settings.channels[static_cast<std::size_t>(level)]};
  };
  if (crossing.skip != Stages::Crossing::main_line) return shape(leads, crossing.skip);
  const Piece last = list_pieces(
      settings)[static_cast<std::size_t>(stages.pieces[static_cast<std::size_t>(crossing.from)].to - 1)];
  switch (last.kind) {
  case Piece::Kind::skip:
    return last.level < coarsest ? shape(frames, last.level + 1) : shape(leads, coarsest);
  case Piece::Kind::decode:
    return shape(leads, last.level);
  default:
    return shape(frames, last.level);
  }
}

std::vector<StageCosts> stage_costs(const Stages& stages, const ModelSettings& settings,
                                    const StUnetPorts& ports, const Partition& partition, int rank,
                                    const ChannelShare& share) {
  const std::vector<StageCosts> pieces = piece_costs(settings, ports, partition, rank, share);
  std::vector<StageCosts> out;
  for (const Span s : stages.pieces) {
    StageCosts& sum = out.emplace_back(StageCosts{0, 0, 0});
    for (Index i = s.from; i < s.to; ++i) {
      const StageCosts& piece = pieces[static_cast<std::size_t>(i)];
      sum.forward += piece.forward;
      sum.backward_inputs += piece.backward_inputs;
      sum.backward_weights += piece.backward_weights;
    }
  }
  return out;
}

std::int64_t held_bytes(const Stages& stages, int stage, std::int64_t samples, const ModelSettings& settings,
                        const StUnetPorts& ports, const Partition& partition, int rank, Tape::Keep keep,
                        const ChannelShare& share) {
  const Footprint one = estimate_footprint(settings, ports, partition, rank, keep,
                                           stages.pieces[static_cast<std::size_t>(stage)], share);
  const auto m = static_cast<int>(samples);
  // A backward pass turns the former into the latter, of one sample more than stays.
  const std::int64_t turned =
      stage > 0 ? std::max<std::int64_t>(0, one.deferred_bytes - one.activation_bytes) : 0;
  return one.activation_bytes * samples_in_flight(stages.count(), stage, m) +
         one.deferred_bytes * samples_deferred(stage, m) + turned + one.inside_bytes;
}

std::string describe(Span pieces, const ModelSettings& settings) {
  const std::vector<Piece> all = list_pieces(settings);
  const auto name = [&](Index i) {
    static constexpr const char* kinds[] = {"encode", "attend", "skip", "decode"};
    const Piece p = all[static_cast<std::size_t>(i)];
    return std::string(kinds[static_cast<int>(p.kind)]) + " " + std::to_string(p.level);
  };
  return pieces.size() == 1 ? name(pieces.from) : name(pieces.from) + " to " + name(pieces.to - 1);
}

} // namespace pluvia
