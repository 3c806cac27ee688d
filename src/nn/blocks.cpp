#include "pluvia/nn/blocks.hpp"

#include <cmath>

#include "pluvia/ops/linear.hpp"
#include "pluvia/ops/norm.hpp"
#include "pluvia/ops/pointwise.hpp"
#include "pluvia/parallel/global_attention.hpp"
#include "pluvia/parallel/recurrence.hpp"

namespace pluvia {

namespace {

/// A layer's values with the margins that its consumer exchanges.
Var apply(Tape& tape, const LinearLayer& layer, const Var& x, const Var& residual = nullptr,
          Margin margin = {}) {
  return linear(tape, x, *layer.weight, *layer.bias, residual, margin);
}

Var apply(Tape& tape, const NormLayer& layer, const Var& x, Activation activation, Margin margin = {}) {
  return layer_norm(tape, x, *layer.gain, *layer.bias, activation, margin);
}

SpaceTimeBlock::Heads make_heads(ParameterSet& set, const std::string& name, Index channels) {
  return {make_linear(set, name + ".q", channels, channels, Init::xavier),
          make_linear(set, name + ".k", channels, channels, Init::xavier),
          make_linear(set, name + ".v", channels, channels, Init::xavier)};
}

Var attend_with(Tape& tape, Decomposition& tiles, int level, const SpaceTimeBlock::Heads& heads, const Var& n,
                const AttentionWindow& window, const AttentionView& view) {
  const Margin keys = key_margin(tiles, level, window);
  const Var q = apply(tape, heads.q, n, nullptr, query_margin(tiles, level, window));
  return attention(tape, tiles, level, q, apply(tape, heads.k, n, nullptr, keys),
                   apply(tape, heads.v, n, nullptr, keys), window, view);
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
  // One name for what follows from another, so that a forecast lets go of what it has used.
  Var h = apply(tape, block.norm, x, Activation::gelu, margin);
  h = conv3d(tape, tiles, level, h, *block.first.weight, *block.first.bias, block.first.stencil);
  h = gelu(tape, h, margin);
  return conv3d(tape, tiles, level, h, *block.second.weight, *block.second.bias, block.second.stencil, x);
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

Var forward(const Recurrence& core, Tape& tape, Decomposition& tiles, const Var& x) {
  return recurrence(tape, tiles, apply(tape, core.input, x), *core.weight);
}

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

  // A forecast lets go of what it has used.
  Var n = apply(tape, block.norm, x, Activation::none);
  Var mixed;
  if (form.form == "joint") {
    mixed = attend_with(tape, tiles, level, block.spatial, n, {past, y, x_axis},
                        watch(probe, AttentionKind::joint, level));
  } else {
    const Var spatial = attend_with(tape, tiles, level, block.spatial, n, {own, y, x_axis},
                                    watch(probe, AttentionKind::spatial, level));
    const Var temporal = block.recurrence.empty()
                             ? attend_with(tape, tiles, level, block.temporal, n, {past, own, own},
                                           watch(probe, AttentionKind::temporal, level))
                             : forward(block.recurrence[0], tape, tiles, n);
    if (form.global == "none") n.reset();
    const Var gate = apply(tape, block.gate_temporal, temporal, apply(tape, block.gate_spatial, spatial));
    if (probe) note_gate(*probe, level, gate->value, tiles.tile(level));
    mixed = blend(tape, gate, spatial, temporal);
  }
  if (form.global != "none") {
    const Var global =
        form.global == "linear"
            ? global_attention(tape, tiles, level, block.uncut, apply(tape, block.global.q, n),
                               apply(tape, block.global.k, n), apply(tape, block.global.v, n))
            : attend_with(tape, tiles, level, block.global, n,
                          {own, every_row(tiles.tiling(), level), every_column(tiles.tiling(), level)}, {});
    const Var gate = apply(tape, block.gate_mixed, mixed, apply(tape, block.gate_global, global));
    mixed = blend(tape, gate, global, mixed);
  }
  n.reset();
  const Var attended = apply(tape, block.output, mixed, x);
  mixed.reset();
  Var hidden = apply(tape, block.mlp_norm, attended, Activation::none);
  hidden = apply(tape, block.expand, hidden);
  hidden = gelu(tape, hidden);
  return apply(tape, block.contract, hidden, attended);
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
  skip.lead_hours = lead_hours;
  skip.q = make_linear(set, name + ".q", c, c, Init::xavier);
  skip.k = make_linear(set, name + ".k", c, c, Init::xavier);
  skip.v = make_linear(set, name + ".v", c, c, Init::xavier);
  skip.output = make_linear(set, name + ".output", c, c, Init::xavier);
  return skip;
}

Var forward(const SkipAttention& skip, Tape& tape, Decomposition& tiles, int level, const Var& x,
            AttentionProbe* probe) {
  const Shape s = skip.lead_embedding->value.shape();
  Tensor embedding(s);
  set_values(embedding, values_of(skip.lead_embedding->value));
  for (Index lead = 0; lead < s.t; ++lead)
    for (Index i = 0; i < s.c / 2; ++i) {
      // Wavelengths from 2 pi to 100 times 2 pi hours.
      const double phase = skip.lead_hours[static_cast<std::size_t>(lead)] *
                           std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(s.c));
      embedding.cell(0, lead, 0, 0)[2 * i] += static_cast<float>(std::sin(phase));
      embedding.cell(0, lead, 0, 0)[2 * i + 1] += static_cast<float>(std::cos(phase));
    }
  const auto pull = [p = skip.lead_embedding](Node& node) { add_gradient(*p, node.grad); };
  const Device device = x->value.device();
  const Var lead = tape.record(moved(std::move(embedding), device), {"lead embedding", s.c}, pull, {},
                               {skip.lead_embedding});
  const AttentionWindow window{tiles.every_frame(x->value.shape().t), tiles.around_y(level, skip.radius),
                               tiles.around_x(level, skip.radius)};
  const Margin keys = key_margin(tiles, level, window);
  Var n = apply(tape, skip.norm, x, Activation::none);
  Var k = apply(tape, skip.k, n, nullptr, keys), v = apply(tape, skip.v, n, nullptr, keys);
  n.reset();
  const Var o = attention(tape, tiles, level, apply(tape, skip.q, lead), k, v, window,
                          watch(probe, AttentionKind::skip, level));
  k.reset(), v.reset();
  return apply(tape, skip.output, o);
}

Rect seen_by(const SkipAttention& skip, const Tiling& tiling, int level, const Rect& cells) {
  return keys_of(around_y(tiling, level, skip.radius), around_x(tiling, level, skip.radius), cells);
}

} // namespace pluvia
