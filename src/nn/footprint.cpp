#include "pluvia/nn/footprint.hpp"

#include <algorithm>

#include "pluvia/nn/operators.hpp"

namespace pluvia {

namespace {

void add(HaloTraffic& traffic, const HaloTraffic& more) {
  traffic.bytes += more.bytes;
  traffic.messages += more.messages;
}

/// The input with the margins that its first operator wants, if the first piece is there, and the base, if
/// the last one is.
std::int64_t kept_of_ports(const ModelSettings& settings, const StUnetPorts& ports,
                           const Partition& partition, int rank, Span pieces) {
  const Margin m = settings.input_merge == 2 ? Margin{} : reach(causal_stencil(3, 3, 3));
  const bool divided = partition.time.parts() > 1;
  const Index frames = divided ? partition.frames(rank).size() : settings.history,
              leads = divided ? partition.leads(rank).size() : static_cast<Index>(ports.lead_hours.size());
  const Rect tile = partition.tile(rank, 0);
  Index values = 0;
  if (pieces.from == 0)
    values += (frames + m.t_lo + m.t_hi) * (tile.height() + m.y_lo + m.y_hi) *
              (tile.width() + m.x_lo + m.x_hi) * ports.inputs;
  if (pieces.to >= static_cast<Index>(list_pieces(settings).size()))
    values += leads * tile.cells() * ports.classes;
  return values * static_cast<Index>(sizeof(float));
}

} // namespace

Footprint estimate_footprint(const ModelSettings& settings, const StUnetPorts& ports,
                             const Partition& partition, int rank, Tape::Keep keep, Span pieces,
                             const ChannelShare& share) {
  Footprint total;
  total.activation_bytes = kept_of_ports(settings, ports, partition, rank, pieces);
  std::vector<Operator> operators = list_operators(settings, ports, partition, rank, share);
  std::erase_if(operators,
                [&](const Operator& op) { return op.piece < pieces.from || op.piece >= pieces.to; });
  std::int64_t inside = 0; // of the block so far
  for (std::size_t i = 0; i < operators.size(); ++i) {
    const Operator& op = operators[i];
    HaloTraffic forward = op.forward.traffic(rank), backward = op.backward.traffic(rank);
    add(forward, op.up), add(backward, op.down);
    add(forward, op.gathered), add(backward, op.gathered_back);
    add(total.forward, forward), add(total.backward, backward);
    total.deferred_bytes += op.deferred_bytes;
    if (keep == Tape::Keep::everything || op.block == 0) {
      total.activation_bytes += op.kept_bytes;
      continue;
    }
    // Made anew before its pull-back, with the same messages; of a block only what it returns stays.
    add(total.backward, forward);
    inside += op.kept_bytes;
    if (i + 1 < operators.size() && operators[i + 1].block == op.block) continue;
    total.activation_bytes += op.kept_bytes;
    total.inside_bytes = std::max(total.inside_bytes, inside);
    inside = 0;
  }
  return total;
}

} // namespace pluvia
