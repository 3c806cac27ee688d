#include "pluvia/nn/blocks.hpp"

#include <cmath>
#include <utility>

#include "pluvia/ops/norm.hpp"
#include "pluvia/ops/pointwise.hpp"
#include "pluvia/parallel/channels.hpp"
#include "pluvia/parallel/global_attention.hpp"
#include "pluvia/parallel/recurrence.hpp"

namespace pluvia {

namespace {

Var apply(Tape& tape, const NormLayer& layer, const Var& x, Activation activation, Margin margin = {}) {
  return layer_norm(tape, x, *layer.gain, *layer.bias, activation, margin);
}

SpaceTimeBlock::Heads make_heads(ParameterSet& set, const std::string& name, Index channels) {
  return {make_linear(set, name + ".q", channels, channels, Init::xavier),
          make_linear(set, name + ".k", channels, channels, Init::xavier),
          make_linear(set, name + ".v", channels, channels, Init::xavier)};
}

/// Layers whose channels are shared out over the ranks that hold the same cells.
struct SharedLayers {
  Tape& tape;
  Decomposition& tiles;
  ChannelShare share;

  Channels channels_of(const Var& x) const { return share_channels(tape, tiles, share, x); }
  Channels gather(const Var& own, Index channels) const {
    return gather_channels(tape, tiles, share, own, channels);
  }
  /// With the margins that the consumer exchanges.
  Var own(const LinearLayer& layer, const Channels& x, const Var& residual = nullptr,
          Margin margin = {}) const {
    return linear_own(tape, tiles, share, x, *layer.weight, *layer.bias, residual, margin);
  }
  Var all(const LinearLayer& layer, const Channels& x, const Var& residual = nullptr) const {
    return linear_all(tape, tiles, share, x, *layer.weight, *layer.bias, residual);
  }
};

/// Attention of the heads that are this rank's.
Var attend_with(const SharedLayers& on, int level, const SpaceTimeBlock::Heads& heads, const Channels& n,
                const AttentionWindow& window, const AttentionView& view) {
  const Margin keys = key_margin(on.tiles, level, window);
  const Var q = on.own(heads.q, n, nullptr, query_margin(on.tiles, level, window));
  return attention(on.tape, on.tiles, level, q, on.own(heads.k, n, nullptr, keys),
                   on.own(heads.v, n, nullptr, keys), window, view);
}

/// Rows and columns around a query that spatial attention sees.
AxisWindow rows_of(const AttentionSettings& form, const Tiling& tiling, int level) {
  return form.form == "windowed" ? block_y(tiling, level, form.window) : around_y(tiling, level, form.radius);
}
AxisWindow columns_of(const AttentionSettings& form, const Tiling& tiling, int level) {
  return form.form == "windowed" ? block_x(tiling, level, form.window) : around_x(tiling, level, form.radius);
}

Rect keys_of(const AxisWindow& y, const AxisWindow& x, const Rect& r) {
  return {y.keys(r.y0).from, y.keys(r.y1 - 1).to, x.keys(r.x0).from, x.keys(r.x1 - 1).to};
}

} // namespace

ResidualBlock make_residual_block(ParameterSet& set, const std::string& name, Index channels,
                                  const Stencil& stencil) {
  return {make_norm(set, name + ".norm", channels),
          make_conv(set, name + ".first", stencil, channels, channels, Init::kaiming),
          make_conv(set, name + ".second", stencil, channels, channels, Init::xavier)};
}

Var forward(const ResidualBlock& block, Tape& tape, Decomposition& tiles, int level, const Var& x) {
  const Margin margin = reach(block.first.stencil);
  const Index c = x->value.shape().c;
  const ChannelShare share = tiles.channel_share().on(c);
  // One name for what follows from another, so that a forecast lets go of what it has used.
  Channels h = share_channels(tape, tiles, share, apply(tape, block.norm, x, Activation::gelu, margin));
  Var own =
      conv3d_own(tape, tiles, level, share, h, *block.first.weight, *block.first.bias, block.first.stencil);
  h = {};
  own = gelu(tape, own, share.whole() ? margin : Margin{});
  h = gather_channels(tape, tiles, share, std::exchange(own, nullptr), c, margin);
  return conv3d_all(tape, tiles, level, share, h, *block.second.weight, *block.second.bias,
                    block.second.stencil, x);
}

Rect seen_by(const ResidualBlock& block, const Tiling&, int, const Rect& cells) {
  return grown(grown(cells, reach(block.second.stencil)), reach(block.first.stencil));
}

Recurrence make_recurrence(ParameterSet& set, const std::string& name, Index c) {
  Recurrence core{.input = make_linear(set, name + ".input", c, 4 * c, Init::xavier)};
  // Memory that is kept until training teaches otherwise (Jozefowicz et al. 2015).
  for (Index i = c; i < 2 * c; ++i) core.input.bias->value.cell(0, 0, 0, 0)[i] = 1.0F;
  core.weight =
      &set.add_weight(name + ".state.weight", {1, 1, 1, c, 4 * c}, 1 / std::sqrt(static_cast<double>(c)));
  return core;
}

namespace {

/// All channels of it, on every rank: each of its states needs all of the one before.
Var forward(const Recurrence& core, const SharedLayers& on, const Channels& x) {
  return recurrence(on.tape, on.tiles, on.all(core.input, x), *core.weight);
}

} // namespace

SpaceTimeBlock make_space_time_block(ParameterSet& set, const std::string& name, Index c,
                                     const ModelSettings& model, int level) {
  const AttentionSettings& settings = model.attention;
  const auto coarser = static_cast<int>(model.channels.size()) - 1 - level;
  SpaceTimeBlock block{
      .settings = settings, .uncut = Index{1} << coarser, .norm = make_norm(set, name + ".norm", c)};
  block.spatial = make_heads(set, name + ".spatial", c);
  if (settings.form != "joint") {
    if (model.temporal_core == "recurrent")
      block.recurrence.push_back(make_recurrence(set, name + ".temporal", c));
    else
      block.temporal = make_heads(set, name + ".temporal", c);
    block.gate_spatial = make_linear(set, name + ".gate_spatial", c, c, Init::xavier);
    block.gate_temporal = make_linear(set, name + ".gate_temporal", c, c, Init::xavier);
  }
  if (settings.global != "none") {
    block.global = make_heads(set, name + ".global", c);
    block.gate_global = make_linear(set, name + ".gate_global", c, c, Init::xavier);
    block.gate_mixed = make_linear(set, name + ".gate_mixed", c, c, Init::xavier);
  }
  block.output = make_linear(set, name + ".output", c, c, Init::xavier);
  block.mlp_norm = make_norm(set, name + ".mlp_norm", c);
  block.expand = make_linear(set, name + ".expand", c, 2 * c, Init::kaiming);
  block.contract = make_linear(set, name + ".contract", 2 * c, c, Init::xavier);
  return block;
}

Var forward(const SpaceTimeBlock& block, Tape& tape, Decomposition& tiles, int level, const Var& x,
            AttentionProbe* probe) {
  const AttentionSettings& form = block.settings;
  const AxisWindow own{AxisWindow::Kind::own, 0, 0};
  const AxisWindow past = tiles.past(x->value.shape().t);
  const AxisWindow y = rows_of(form, tiles.tiling(), level), x_axis = columns_of(form, tiles.tiling(), level);

  const Index c = x->value.shape().c;
  const SharedLayers on{tape, tiles, tiles.channel_share().on(c)};
  // A forecast lets go of what it has used.
  Channels n = on.channels_of(apply(tape, block.norm, x, Activation::none));
  Channels mixed;
  if (form.form == "joint") {
    mixed = on.gather(attend_with(on, level, block.spatial, n, {past, y, x_axis},
                                  watch(probe, AttentionKind::joint, level)),
                      c);
  } else {
    const Channels spatial = on.gather(attend_with(on, level, block.spatial, n, {own, y, x_axis},
                                                   watch(probe, AttentionKind::spatial, level)),
                                       c);
    const Channels temporal = block.recurrence.empty()
                                  ? on.gather(attend_with(on, level, block.temporal, n, {past, own, own},
                                                          watch(probe, AttentionKind::temporal, level)),
                                              c)
                                  : on.channels_of(forward(block.recurrence[0], on, n));
    if (form.global == "none") n = {};
    const Var gate = on.own(block.gate_temporal, temporal, on.own(block.gate_spatial, spatial));
    if (probe) note_gate(*probe, level, gate->value, tiles.tile(level));
    mixed = on.gather(blend(tape, gate, spatial.own, temporal.own), c);
  }
  if (form.global != "none") {
    const Channels global = on.gather(
        form.global == "linear"
            ? global_attention(tape, tiles, level, block.uncut, on.own(block.global.q, n),
                               on.own(block.global.k, n), on.own(block.global.v, n))
            : attend_with(on, level, block.global, n,
                          {own, every_row(tiles.tiling(), level), every_column(tiles.tiling(), level)}, {}),
        c);
    const Var gate = on.own(block.gate_mixed, mixed, on.own(block.gate_global, global));
    mixed = on.gather(blend(tape, gate, global.own, mixed.own), c);
  }
  n = {};
  const Var attended = on.all(block.output, mixed, x);
  mixed = {};
  Channels hidden = on.channels_of(apply(tape, block.mlp_norm, attended, Activation::none));
  Var wide = on.own(block.expand, hidden);
  hidden = {};
  wide = gelu(tape, wide);
  hidden = on.gather(std::exchange(wide, nullptr), 2 * c);
  return on.all(block.contract, hidden, attended);
}

Rect seen_by(const SpaceTimeBlock& block, const Tiling& tiling, int level, const Rect& cells) {
  const AttentionSettings& form = block.settings;
  return keys_of(rows_of(form, tiling, level), columns_of(form, tiling, level), cells);
}

SkipAttention make_skip_attention(ParameterSet& set, const std::string& name, Index c, Index radius,
                                  const std::vector<double>& lead_hours) {
  SkipAttention skip{.radius = radius, .norm = make_norm(set, name + ".norm", c)};
  skip.lead_embedding =
      &set.add_weight(name + ".lead_embedding", {1, static_cast<Index>(lead_hours.size()), 1, 1, c}, 0.02);
  const Shape shape = skip.lead_embedding->value.shape();
  Tensor waves(shape);
  for (Index lead = 0; lead < shape.t; ++lead)
    for (Index i = 0; i < c / 2; ++i) {
      // Wavelengths from 2 pi to 100 times 2 pi hours.
      const double phase = lead_hours[static_cast<std::size_t>(lead)] *
                           std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(c));
      waves.cell(0, lead, 0, 0)[2 * i] = static_cast<float>(std::sin(phase));
      waves.cell(0, lead, 0, 0)[2 * i + 1] = static_cast<float>(std::cos(phase));
    }
  skip.lead_waves = &set.keep(std::move(waves));
  skip.q = make_linear(set, name + ".q", c, c, Init::xavier);
  skip.k = make_linear(set, name + ".k", c, c, Init::xavier);
  skip.v = make_linear(set, name + ".v", c, c, Init::xavier);
  skip.output = make_linear(set, name + ".output", c, c, Init::xavier);
  return skip;
}

Var forward(const SkipAttention& skip, Tape& tape, Decomposition& tiles, int level, const Var& x,
            AttentionProbe* probe) {
  const Shape s = skip.lead_embedding->value.shape();
  Tensor embedding = skip.lead_embedding->value.clone();
  add_to(embedding, *skip.lead_waves);
  const auto pull = [p = skip.lead_embedding, counts = tape.blocks().counts()](Node& node) {
    if (counts) add_gradient(*p, node.grad);
  };
  const Var lead =
      tape.record(std::move(embedding), {"lead embedding", s.c}, pull, {}, {skip.lead_embedding});
  const AttentionWindow window{tiles.every_frame(x->value.shape().t), tiles.around_y(level, skip.radius),
                               tiles.around_x(level, skip.radius)};
  const Margin keys = key_margin(tiles, level, window);
  const SharedLayers on{tape, tiles, tiles.channel_share().on(s.c)};
  Channels n = on.channels_of(apply(tape, skip.norm, x, Activation::none));
  Var k = on.own(skip.k, n, nullptr, keys), v = on.own(skip.v, n, nullptr, keys);
  n = {};
  const Channels o = on.gather(attention(tape, tiles, level, on.own(skip.q, on.channels_of(lead)), k, v,
                                         window, watch(probe, AttentionKind::skip, level)),
                               s.c);
  k.reset(), v.reset();
  return on.all(skip.output, o);
}

Rect seen_by(const SkipAttention& skip, const Tiling& tiling, int level, const Rect& cells) {
  return keys_of(around_y(tiling, level, skip.radius), around_x(tiling, level, skip.radius), cells);
}

} // namespace pluvia
