#include "pluvia/nn/footprint.hpp"

#include <algorithm>

#include "pluvia/ops/linear_attention.hpp"

namespace pluvia {

namespace {

/// Adds up one layer after the other, as the blocks of blocks.cpp and StUnet::forward apply them.
class Walk {
public:
  Walk(const Tiling& tiling, int rank, Tape::Keep keep) : tiling_(tiling), rank_(rank), keep_(keep) {}
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
    const Rect tile = tiling_.tile(rank_, level);
    total_.activation_bytes +=
        (frames + margin.t_lo + margin.t_hi) * (tile.height() + margin.y_lo + margin.y_hi) *
        (tile.width() + margin.x_lo + margin.x_hi) * channels * static_cast<Index>(sizeof(float));
  }

  void conv(int level, Index frames, Index c_in, Index c_out, const Stencil& stencil) {
    send(total_.forward, plan_stencil_halo(tiling_, level, rank_, stencil), frames, c_in);
    send(total_.backward, plan_stencil_halo(tiling_, level, rank_, transposed(stencil)), frames, c_out);
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
  void attention(int level, Index frames_in, Index frames_out, Index c, Queries queries, const AxisWindow& y,
                 const AxisWindow& x) {
    Margin key_margin, query_margin;
    const Index heads = c / head_channels;
    if (y.kind != AxisWindow::Kind::own || x.kind != AxisWindow::Kind::own) {
      const HaloPlan keys = plan_key_halo(tiling_, level, rank_, y, x);
      const HaloPlan askers = plan_query_halo(tiling_, level, rank_, y, x);
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

  void space_time_block(int level, Index frames, Index c, const AttentionSettings& form) {
    const AxisWindow own{AxisWindow::Kind::own, 0, 0};
    const bool windowed = form.form == "windowed";
    keep(level, frames, c); // norm
    attention(level, frames, frames, c, Queries::own,
              windowed ? block_y(tiling_, level, form.window) : around_y(tiling_, level, form.radius),
              windowed ? block_x(tiling_, level, form.window) : around_x(tiling_, level, form.radius));
    if (form.form != "joint") {
      attention(level, frames, frames, c, Queries::own, own, own);
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
    attention(level, frames, leads, c, Queries::shared, around_y(tiling_, level, radius),
              around_x(tiling_, level, radius));
    keep(level, leads, c); // output
  }

private:
  void send(HaloTraffic& traffic, const HaloPlan& plan, Index frames, Index channels) const {
    const HaloTraffic more = halo_traffic(plan, rank_, frames, channels);
    traffic.bytes += more.bytes;
    traffic.messages += more.messages;
  }

  const Tiling& tiling_;
  int rank_;
  Tape::Keep keep_;
  Footprint total_;
};

} // namespace

Footprint estimate_footprint(const ModelSettings& settings, const StUnetPorts& ports, const Tiling& tiling,
                             int rank, Tape::Keep keep) {
  const Stencil causal = causal_stencil(3, 3, 3), flat = causal_stencil(1, 3, 3);
  const Index frames = settings.history, leads = static_cast<Index>(ports.lead_hours.size());
  const auto n = static_cast<int>(settings.channels.size());
  const int merged = settings.input_merge == 2 ? 1 : 0;
  const auto channels = [&](int l) { return settings.channels[static_cast<std::size_t>(l)]; };
  Walk walk(tiling, rank, keep);

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
                 [&] { walk.space_time_block(merged + l, frames, channels(l), settings.attention); });
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
