#include "pluvia/nn/operators.hpp"

#include <algorithm>
#include <numeric>

#include "pluvia/ops/linear_attention.hpp"
#include "pluvia/parallel/channels.hpp"
#include "pluvia/parallel/recurrence.hpp"
#include "pluvia/parallel/stencil.hpp"

namespace pluvia {

namespace {

std::int64_t bytes_of(const Shape& s, Margin m = {}) {
  return (s.t + m.t_lo + m.t_hi) * (s.y + m.y_lo + m.y_hi) * (s.x + m.x_lo + m.x_hi) * s.c *
         static_cast<Index>(sizeof(float));
}

/// Writes down one layer after the other, as the blocks of blocks.cpp and StUnet::forward apply them.
class Walk {
public:
  Walk(const Partition& partition, int rank, const ChannelShare& share)
      : partition_(partition), group_(share), rank_(rank) {}
  std::vector<Operator> take() { return std::move(list_); }

  /// What comes next belongs to the i-th piece.
  void begin_piece(int i) { piece_ = i; }

  template <class Body> void block(Body&& body) {
    block_ = ++blocks_;
    body();
    block_ = 0;
  }

  Shape shape(int level, Index frames, Index channels) const {
    const Rect tile = partition_.tile(rank_, level);
    return {1, frames, tile.height(), tile.width(), channels};
  }

  /// An operator that keeps its output.
  Operator& add(const Work& work, const Shape& output, Margin margin = {}) {
    Operator& op = list_.emplace_back();
    op.work = work, op.output = output, op.block = block_, op.piece = piece_;
    op.kept_bytes = bytes_of(output, margin);
    return op;
  }

  void linear(const Shape& output, Index c_in, Margin margin = {}) {
    const Work work = convolution_work("linear", output, {1, 1, 1, c_in, output.c}, true, group_.members);
    add_linear(work, output, c_in, output, margin);
  }

  /// conv3d_own, or conv3d_all where `whole`.
  void shared_conv(const ChannelShare& share, int level, Index frames, Index c, const Stencil& stencil,
                   bool whole) {
    conv(level, frames, c, c, stencil);
    if (share.whole()) return;
    Operator& op = list_.back();
    const Shape all = shape(level, frames, c);
    op.work = shared_work("conv3d", share, all, {stencil.t, stencil.y, stencil.x, c, c}, group_.members);
    op.behind = op.weight_flop / op.work.pull_flop;
    op.output = whole ? all : own(share, all);
    op.kept_bytes = bytes_of(op.output);
    (whole ? op.gathered : op.gathered_back) = gather_traffic(share, all);
  }

  /// The same with shared channels: linear_own, or linear_all where `whole`.
  void shared_linear(const ChannelShare& share, const Shape& all, Index c_in, bool whole,
                     Margin margin = {}) {
    if (share.whole()) return linear(all, c_in, margin);
    Operator& op = add_linear(shared_work("linear", share, all, {1, 1, 1, c_in, all.c}, group_.members), all,
                              c_in, whole ? all : own(share, all), margin);
    (whole ? op.gathered : op.gathered_back) = gather_traffic(share, all);
  }

  Shape own(const ChannelShare& share, Shape s) const {
    s.c = share.size(s.c);
    return s;
  }

  /// share_channels, of a value and of its gradient.
  void share_channels(const ChannelShare& share, const Shape& all) {
    if (!share.whole())
      add({"own channels", all.c}, own(share, all)).gathered_back = gather_traffic(share, all);
  }

  void gather_channels(const ChannelShare& share, const Shape& all, Margin margin = {}) {
    if (!share.whole()) add({"gather", share.size(all.c)}, all, margin).gathered = gather_traffic(share, all);
  }

  void conv(int level, Index frames, Index c_in, Index c_out, const Stencil& stencil,
            bool input_gradient = true) {
    const Shape output = shape(level, frames, c_out);
    Operator& op = add(convolution_work("conv3d", output, {stencil.t, stencil.y, stencil.x, c_in, c_out},
                                        input_gradient, group_.members),
                       output);
    op.forward = {plan_stencil_halo(partition_, level, rank_, stencil), frames, {c_in}};
    op.backward = {plan_stencil_halo(partition_, level, rank_, transposed(stencil)), frames, {c_out}};
    op.weight_flop = op.work.flop / group_.members;
    op.behind = op.weight_flop / op.work.pull_flop;
    op.deferred_bytes =
        bytes_of(shape(level, frames, c_in), reach(stencil)) + bytes_of(output, reach(transposed(stencil)));
  }

  void residual_block(int level, Index frames, Index c, const Stencil& stencil) {
    const Shape s = shape(level, frames, c);
    const ChannelShare share = group_.on(c);
    const Margin margin = reach(stencil);
    add({"layer_norm", c}, s, margin);
    share_channels(share, s);
    shared_conv(share, level, frames, c, stencil, false);
    add({"gelu", share.size(c)}, own(share, s), share.whole() ? margin : Margin{});
    gather_channels(share, s, margin);
    shared_conv(share, level, frames, c, stencil, true);
  }

  /// Projections of queries, keys and values, and the attention itself. `asked` are the lead times whose
  /// queries all cells share, 0 = every cell has its own. Of the share's heads, all of them afterwards.
  void attention(int level, Index frames_in, Index frames_out, Index all_channels, Index asked,
                 const AttentionWindow& window, const ChannelShare& share) {
    Operator::Halo keys, askers;
    const Index c = share.size(all_channels), heads = c / head_channels;
    if (!stays_home(partition_.time, window)) {
      keys = {plan_key_halo(partition_, level, rank_, window), frames_in, {c, c}};
      askers = {plan_query_halo(partition_, level, rank_, window), frames_out, {c, heads, heads}};
      if (asked == 0) askers.channels.push_back(c);
    }
    if (asked > 0)
      shared_linear(share, {1, asked, 1, 1, all_channels}, all_channels, false);
    else
      shared_linear(share, shape(level, frames_out, all_channels), all_channels, false, askers.plan.margin);
    for (int i = 0; i < 2; ++i)
      shared_linear(share, shape(level, frames_in, all_channels), all_channels, false, keys.plan.margin);

    const Rect tile = partition_.tile(rank_, level);
    const Index frame = partition_.frames(rank_).from;
    const TileOrigin origin{tile.y0, tile.x0, asked > 0 ? partition_.leads(rank_).from : frame, frame};
    const Shape output = shape(level, frames_out, c);
    const double flop = 4.0 * attended_pairs(output, window, origin) * static_cast<double>(c);
    Operator& op = add({attention_name(window), c, flop, 2.5 * flop}, output);
    op.kept_bytes += bytes_of(shape(level, frames_out, heads), askers.plan.margin);
    op.forward = std::move(keys), op.backward = std::move(askers);
    gather_channels(share, shape(level, frames_out, all_channels));
  }

  void recurrence(int level, Index frames, Index c, const ChannelShare& share) {
    const Shape s = shape(level, frames, c), four = shape(level, frames, 4 * c);
    shared_linear(share, four, c, true);
    Work work = convolution_work("recurrence", four, {1, 1, 1, c, 4 * c}, true, group_.members);
    work.inputs = c;
    Operator& op = add(work, s);
    op.weight_flop = work.flop / group_.members;
    op.deferred_bytes = bytes_of(s, {.t_lo = 1}) + bytes_of(four);
    // Gates, memory, hidden values before.
    op.kept_bytes += bytes_of(four) + bytes_of(s, {.t_lo = 1}) + bytes_of(s);
    const TimeAxis& axis = partition_.time;
    const int part = partition_.part(rank_);
    const auto strips = static_cast<int>(recurrence_strips(s.y, axis.parts()).size());
    const HaloTraffic state{2 * s.y * s.x * c * static_cast<Index>(sizeof(float)), strips};
    if (part + 1 < axis.parts()) op.up = state;
    if (part > 0) op.down = state;
    share_channels(share, s);
  }

  /// Two linear layers that make a gate, and what it mixes.
  void gate(const ChannelShare& share, const Shape& s) {
    for (int i = 0; i < 2; ++i) shared_linear(share, s, s.c, false);
    add({"blend", share.size(s.c)}, own(share, s));
    gather_channels(share, s);
  }

  void space_time_block(int level, Index frames, Index c, const ModelSettings& model) {
    const AttentionSettings& form = model.attention;
    const AxisWindow own{AxisWindow::Kind::own, 0, 0},
        past{AxisWindow::Kind::past, 0, partition_.time.parts() > 1 ? partition_.time.frames() : frames};
    const Tiling& tiling = partition_.tiling;
    const bool windowed = form.form == "windowed", joint = form.form == "joint";
    const Shape s = shape(level, frames, c), wide = shape(level, frames, 2 * c);
    const ChannelShare share = group_.on(c);
    add({"layer_norm", c}, s);
    share_channels(share, s);
    attention(level, frames, frames, c, 0,
              {joint ? past : own,
               windowed ? block_y(tiling, level, form.window) : around_y(tiling, level, form.radius),
               windowed ? block_x(tiling, level, form.window) : around_x(tiling, level, form.radius)},
              share);
    if (!joint) {
      if (model.temporal_core == "recurrent")
        recurrence(level, frames, c, share);
      else
        attention(level, frames, frames, c, 0, {past, own, own}, share);
      gate(share, s);
    }
    if (form.global == "softmax") {
      attention(level, frames, frames, c, 0, {own, every_row(tiling, level), every_column(tiling, level)},
                share);
      gate(share, s);
    }
    if (form.global == "linear") {
      for (int i = 0; i < 3; ++i) shared_linear(share, s, c, false);
      const Shape part = this->own(share, s);
      const double flop = 4.0 * (head_channels + 1) * static_cast<double>(part.size());
      Operator& op = add({"attention (global)", part.c, flop, 2 * flop}, part);
      const Shape summed = domain_sums_shape(part);
      op.domain_sums = summed.size();
      op.kept_bytes += bytes_of(summed);
      gather_channels(share, s);
      gate(share, s);
    }
    shared_linear(share, s, c, true);
    add({"layer_norm", c}, s);
    share_channels(share, s);
    shared_linear(share, wide, c, false);
    add({"gelu", share.size(2 * c)}, this->own(share, wide));
    gather_channels(share, wide);
    shared_linear(share, s, 2 * c, true);
  }

  void skip(int level, Index frames, Index leads, Index all_leads, Index c, Index radius) {
    const ChannelShare share = group_.on(c);
    const Shape asked{1, all_leads, 1, 1, c}, s = shape(level, frames, c);
    add({"lead embedding", c}, asked);
    add({"layer_norm", c}, s);
    for (const Shape& of : {asked, s}) share_channels(share, of);
    attention(level, frames, leads, c, all_leads,
              {{AxisWindow::Kind::all, 0, partition_.time.parts() > 1 ? partition_.time.frames() : frames},
               around_y(partition_.tiling, level, radius),
               around_x(partition_.tiling, level, radius)},
              share);
    shared_linear(share, shape(level, leads, c), c, true);
  }

private:
  Operator& add_linear(const Work& work, const Shape& all, Index c_in, const Shape& output, Margin margin) {
    Operator& op = add(work, output, margin);
    op.weight_flop = 2.0 * static_cast<double>(all.size() * c_in) / group_.members;
    op.deferred_bytes = bytes_of(all) / all.c * (c_in + all.c);
    return op;
  }

  const Partition& partition_;
  const ChannelShare group_;
  int rank_, block_ = 0, blocks_ = 0, piece_ = 0;
  std::vector<Operator> list_;
};

} // namespace

HaloTraffic Operator::Halo::traffic(int rank) const {
  return halo_traffic(plan, rank, frames, std::accumulate(channels.begin(), channels.end(), Index{0}));
}

std::vector<Operator> list_operators(const ModelSettings& settings, const StUnetPorts& ports,
                                     const Partition& partition, int rank, const ChannelShare& share) {
  const Stencil causal = causal_stencil(3, 3, 3), flat = causal_stencil(1, 3, 3);
  const bool divided = partition.time.parts() > 1;
  const auto all_leads = static_cast<Index>(ports.lead_hours.size());
  const Index frames = divided ? partition.frames(rank).size() : settings.history,
              leads = divided ? partition.leads(rank).size() : all_leads;
  const auto n = static_cast<int>(settings.channels.size());
  const int merged = settings.input_merge == 2 ? 1 : 0;
  const auto channels = [&](int l) { return settings.channels[static_cast<std::size_t>(l)]; };
  Walk walk(partition, rank, share);
  const auto merge = [&](int level, Index c) { walk.add({"merge", c}, walk.shape(level, frames, 4 * c)); };
  const auto unmerge = [&](int level, Index c) { walk.add({"unmerge", 4 * c}, walk.shape(level, leads, c)); };

  const std::vector<Piece> pieces = list_pieces(settings);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    walk.begin_piece(static_cast<int>(i));
    const int l = pieces[i].level, level = merged + l;
    const Index c = channels(l);
    switch (pieces[i].kind) {
    case Piece::Kind::encode:
      if (l == 0) {
        if (merged == 1) {
          merge(1, ports.inputs);
          walk.linear(walk.shape(1, frames, c), 4 * ports.inputs, reach(causal));
        }
        walk.conv(merged, frames, merged == 1 ? c : ports.inputs, c, causal, merged == 1);
      }
      walk.block([&] { walk.residual_block(level, frames, c, causal); });
      break;
    case Piece::Kind::attend:
      walk.block([&] { walk.space_time_block(level, frames, c, settings); });
      break;
    case Piece::Kind::skip:
      walk.block([&] { walk.skip(level, frames, leads, all_leads, c, settings.skip_radius); });
      if (l + 1 == n) break;
      merge(level + 1, c);
      walk.linear(walk.shape(level + 1, frames, channels(l + 1)), 4 * c);
      break;
    case Piece::Kind::decode:
      walk.linear(walk.shape(level + 1, leads, 4 * c), channels(l + 1));
      unmerge(level, c);
      walk.block([&] { walk.residual_block(level, leads, c, flat); });
      break;
    }
  }
  walk.linear(walk.shape(merged, leads, (merged == 1 ? 4 : 1) * ports.classes), channels(0));
  if (merged == 1) unmerge(0, ports.classes);
  return walk.take();
}

} // namespace pluvia
