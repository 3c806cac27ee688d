#include "pluvia/nn/footprint.hpp"

#include <algorithm>

#include "pluvia/ops/linear_attention.hpp"
#include "pluvia/parallel/recurrence.hpp"

namespace pluvia {

namespace {

/// Adds up one layer after the other, as the blocks of blocks.cpp and StUnet::forward apply them.
class Walk {
public:
  Walk(const Partition& partition, int rank, Tape::Keep keep)
      : partition_(partition), rank_(rank), keep_(keep) {}
  const Footprint& total() const { return total_; }

  /// A block, of which only what it returns may stay: frames of channels at a level.
  template <class Body> void block(int level, Index frames, Index channels, Body&& body) {
    const Footprint before = total_;
    body();
    if (keep_ == Tape::Keep::everything) return;
    // Made anew before its pull-back, with the same messages.
    total_.backward.bytes += total_.forward.bytes - before.forward.bytes;
    total_.backward.messages += total_.forward.messages - before.forward.messages;
    total_.inside_bytes = std::max(total_.inside_bytes, total_.activation_bytes - before.activation_bytes);
    total_.activation_bytes = before.activation_bytes;
    keep(level, frames, channels);
  }

  /// A value that stays for the backward pass.
  void keep(int level, Index frames, Index channels, Margin margin = {}) {
    const Rect tile = partition_.tile(rank_, level);
    total_.activation_bytes +=
        (frames + margin.t_lo + margin.t_hi) * (tile.height() + margin.y_lo + margin.y_hi) *
        (tile.width() + margin.x_lo + margin.x_hi) * channels * static_cast<Index>(sizeof(float));
  }

  void conv(int level, Index frames, Index c_in, Index c_out, const Stencil& stencil) {
    send(total_.forward, plan_stencil_halo(partition_, level, rank_, stencil), frames, c_in);
    send(total_.backward, plan_stencil_halo(partition_, level, rank_, transposed(stencil)), frames, c_out);
    keep(level, frames, c_out);
  }

  void residual_block(int level, Index frames, Index c, const Stencil& stencil) {
    for (int i = 0; i < 2; ++i) { // norm and convolution, activation and convolution
      keep(level, frames, c, reach(stencil));
      conv(level, frames, c, c, stencil);
    }
  }

  enum class Queries { own, shared };
  /// Projections of queries, keys and values, and the attention itself.
  void attention(int level, Index frames_in, Index frames_out, Index c, Queries queries,
                 const AttentionWindow& window) {
    Margin key_margin, query_margin;
    const Index heads = c / head_channels;
    if (!stays_home(partition_.time, window)) {
      const HaloPlan keys = plan_key_halo(partition_, level, rank_, window);
      const HaloPlan askers = plan_query_halo(partition_, level, rank_, window);
      key_margin = keys.margin, query_margin = askers.margin;
      send(total_.forward, keys, frames_in, 2 * c);
      // Gradient, log-sum-exp, delta, and each cell's own queries.
      send(total_.backward, askers, frames_out, (queries == Queries::own ? 2 : 1) * c + 2 * heads);
    }
    if (queries == Queries::own) keep(level, frames_out, c, query_margin);
    keep(level, frames_in, 2 * c, key_margin);
    keep(level, frames_out, c);
    keep(level, frames_out, heads, query_margin);
  }

  void recurrence(int level, Index frames, Index c) {
    keep(level, frames, 4 * c);          // input
    keep(level, frames, 4 * c);          // gates
    keep(level, frames, c, {.t_lo = 1}); // memory
    keep(level, frames, 2 * c);          // hidden values before and after
    const TimeAxis& axis = partition_.time;
    const int part = partition_.part(rank_);
    const Rect tile = partition_.tile(rank_, level);
    const auto strips = static_cast<int>(recurrence_strips(tile.height(), partition_.time.parts()).size());
    const HaloTraffic state{2 * tile.cells() * c * static_cast<Index>(sizeof(float)), strips};
    if (part + 1 < axis.parts()) add(total_.forward, state);
    if (part > 0) add(total_.backward, state);
  }

  void space_time_block(int level, Index frames, Index c, const ModelSettings& model) {
    const AttentionSettings& form = model.attention;
    const AxisWindow own{AxisWindow::Kind::own, 0, 0},
        past{AxisWindow::Kind::past, 0, partition_.time.frames()};
    const Tiling& tiling = partition_.tiling;
    const bool windowed = form.form == "windowed", joint = form.form == "joint";
    keep(level, frames, c); // norm
    attention(level, frames, frames, c, Queries::own,
              {joint ? past : own,
               windowed ? block_y(tiling, level, form.window) : around_y(tiling, level, form.radius),
               windowed ? block_x(tiling, level, form.window) : around_x(tiling, level, form.radius)});
    if (!joint) {
      if (model.temporal_core == "recurrent")
        recurrence(level, frames, c);
      else
        attention(level, frames, frames, c, Queries::own, {past, own, own});
      keep(level, frames, 3 * c); // gate in two parts, blend
    }
    if (form.global == "softmax") {
      attention(level, frames, frames, c, Queries::own,
                {own, every_row(tiling, level), every_column(tiling, level)});
      keep(level, frames, 3 * c); // gate in two parts, blend
    }
    if (form.global == "linear") {
      keep(level, frames, 4 * c); // queries, keys, values, attention
      total_.activation_bytes +=
          domain_sums_shape({1, frames, 1, 1, c}).size() * static_cast<Index>(sizeof(float));
      keep(level, frames, 3 * c); // gate in two parts, blend
    }
    keep(level, frames, c);     // output
    keep(level, frames, 6 * c); // norm, expand, activation, contract
  }

  void skip(int level, Index frames, Index leads, Index c, Index radius) {
    keep(level, frames, c); // norm
    attention(level, frames, leads, c, Queries::shared,
              {{AxisWindow::Kind::all, 0, partition_.time.frames()},
               around_y(partition_.tiling, level, radius),
               around_x(partition_.tiling, level, radius)});
    keep(level, leads, c); // output
  }

private:
  static void add(HaloTraffic& traffic, const HaloTraffic& more) {
    traffic.bytes += more.bytes;
    traffic.messages += more.messages;
  }
  void send(HaloTraffic& traffic, const HaloPlan& plan, Index frames, Index channels) const {
    add(traffic, halo_traffic(plan, rank_, frames, channels));
  }

  const Partition& partition_;
  int rank_;
  Tape::Keep keep_;
  Footprint total_;
};

} // namespace

Footprint estimate_footprint(const ModelSettings& settings, const StUnetPorts& ports,
                             const Partition& partition, int rank, Tape::Keep keep) {
  const Stencil causal = causal_stencil(3, 3, 3), flat = causal_stencil(1, 3, 3);
  const bool divided = partition.time.parts() > 1;
  const Index frames = divided ? partition.frames(rank).size() : settings.history,
              leads = divided ? partition.leads(rank).size() : static_cast<Index>(ports.lead_hours.size());
  const auto n = static_cast<int>(settings.channels.size());
  const int merged = settings.input_merge == 2 ? 1 : 0;
  const auto channels = [&](int l) { return settings.channels[static_cast<std::size_t>(l)]; };
  Walk walk(partition, rank, keep);

  walk.keep(0, frames, ports.inputs, merged == 1 ? Margin{} : reach(causal));
  if (merged == 1) {
    walk.keep(1, frames, 4 * ports.inputs);
    walk.keep(1, frames, channels(0), reach(causal));
  }
  walk.conv(merged, frames, merged == 1 ? channels(0) : ports.inputs, channels(0), causal);
  for (int l = 0; l < n; ++l) {
    walk.block(merged + l, frames, channels(l),
               [&] { walk.residual_block(merged + l, frames, channels(l), causal); });
    const bool attends = std::ranges::any_of(settings.attention.levels, [&](std::int64_t wanted) {
      return (wanted < 0 ? wanted + n : wanted) == l;
    });
    if (attends)
      walk.block(merged + l, frames, channels(l),
                 [&] { walk.space_time_block(merged + l, frames, channels(l), settings); });
    walk.block(merged + l, leads, channels(l),
               [&] { walk.skip(merged + l, frames, leads, channels(l), settings.skip_radius); });
    if (l + 1 < n) walk.keep(merged + l + 1, frames, 4 * channels(l) + channels(l + 1)); // merge and down
  }
  for (int l = n - 2; l >= 0; --l) {
    walk.keep(merged + l + 1, leads, 4 * channels(l)); // up
    walk.keep(merged + l, leads, channels(l));         // unmerge
    walk.block(merged + l, leads, channels(l),
               [&] { walk.residual_block(merged + l, leads, channels(l), flat); });
  }
  if (merged == 1) walk.keep(1, leads, 4 * ports.classes);
  walk.keep(0, leads, 2 * ports.classes); // the base and the logits
  return walk.total();
}

} // namespace pluvia
