#include "pluvia/nn/st_unet.hpp"

#include <algorithm>
#include <string>

#include "pluvia/core/error.hpp"
#include "pluvia/ops/linear.hpp"
#include "pluvia/ops/resample.hpp"

namespace pluvia {

int levels_of(const ModelSettings& settings) {
  return static_cast<int>(settings.channels.size()) + (settings.input_merge == 2 ? 1 : 0);
}

namespace {

/// Levels counted from 0; negative ones from the coarsest.
bool has_attention(const ModelSettings& settings, int level) {
  const auto n = static_cast<std::int64_t>(settings.channels.size());
  return std::ranges::any_of(settings.attention.levels, [&](std::int64_t wanted) {
    return (wanted < 0 ? wanted + n : wanted) == level;
  });
}

} // namespace

StUnet::StUnet(const ModelSettings& settings, const StUnetPorts& ports, std::uint64_t seed)
    : settings_(settings), parameters_(seed), merged_(settings.input_merge == 2 ? 1 : 0) {
  if (settings.attention.form == "joint" && settings.temporal_core == "recurrent")
    fail(ExitCode::usage, "model.temporal_core: recurrent has no place in model.attention.form: joint",
         "joint attention looks through space and time at once", "Choose another form, or attention.");
  const auto n = static_cast<int>(settings.channels.size());
  for (std::int64_t level : settings.attention.levels)
    if (level >= n || level < -n)
      fail(ExitCode::usage, "model.attention.levels names level " + std::to_string(level),
           "model.channels has " + std::to_string(n) + " levels",
           "Levels run from 0 to n - 1, or from -n to -1.");

  const Stencil causal = causal_stencil(3, 3, 3), flat = causal_stencil(1, 3, 3);
  const Index first = settings.channels.front();
  Index stem_inputs = ports.inputs;
  if (merged_ == 1) {
    entry_ = make_linear(parameters_, "entry", 4 * ports.inputs, first, Init::xavier);
    stem_inputs = first;
  }
  stem_ = make_conv(parameters_, "stem", causal, stem_inputs, first, Init::xavier);
  // Made in the order in which the forward pass meets them: sums of gradients begin with the last.
  const auto name_of = [](int l) { return "level" + std::to_string(l); };
  for (int l = 0; l < n; ++l) {
    const Index c = settings.channels[static_cast<std::size_t>(l)];
    const std::string name = name_of(l);
    Level level{.encode = make_residual_block(parameters_, name + ".encode", c, causal)};
    if (has_attention(settings, l))
      level.attention.push_back(make_space_time_block(parameters_, name + ".attention", c, settings, l));
    level.skip = make_skip_attention(parameters_, name + ".skip", c, settings.skip_radius, ports.lead_hours);
    if (l + 1 < n)
      level.down = make_linear(parameters_, name + ".down", 4 * c,
                               settings.channels[static_cast<std::size_t>(l) + 1], Init::xavier);
    levels_.push_back(std::move(level));
  }
  for (int l = n - 2; l >= 0; --l) {
    const Index c = settings.channels[static_cast<std::size_t>(l)],
                next = settings.channels[static_cast<std::size_t>(l) + 1];
    Level& level = levels_[static_cast<std::size_t>(l)];
    level.up = make_linear(parameters_, name_of(l) + ".up", next, 4 * c, Init::xavier);
    level.decode = make_residual_block(parameters_, name_of(l) + ".decode", c, flat);
  }
  const Init head = settings.head_init == "random" ? Init::xavier : Init::zero;
  head_ = make_linear(parameters_, "head", first, (merged_ == 1 ? 4 : 1) * ports.classes, head);
}

Margin StUnet::input_margin() const {
  return merged_ == 1 ? Margin{} : reach(stem_.stencil);
}

Var StUnet::begin(Tape& tape, Decomposition& tiles, Var input) {
  if (merged_ == 1)
    input = linear(tape, merge(tape, input), *entry_.weight, *entry_.bias, nullptr, reach(stem_.stencil));
  return conv3d(tape, tiles, merged_, input, *stem_.weight, *stem_.bias, stem_.stencil);
}

Var StUnet::forward(Tape& tape, Decomposition& tiles, Var input, const Var& base, const Dropout& dropout,
                    AttentionProbe* probe, const SlabSize& slab) {
  const auto lin = [&](const LinearLayer& layer, const Var& x, const Var& residual = nullptr) {
    return linear(tape, x, *layer.weight, *layer.bias, residual);
  };
  const auto apply = [&](const auto& block, int level, const Var& x, auto... watcher) {
    return tape.apply(
        [&block, &tiles, level, watcher...](Tape& t, const Var& v) {
          return pluvia::forward(block, t, tiles, level, v, watcher...);
        },
        x);
  };
  std::vector<Index> rows(levels_.size(), 0);
  if (!tape.recording() && !probe && dropout.rate == 0) rows = slab_rows(tiles, input->value.shape().t, slab);
  Var x = std::move(input);
  if (rows[0] == 0) x = begin(tape, tiles, std::move(x));

  std::vector<Var> skips;
  for (std::size_t l = 0; l < levels_.size(); ++l) {
    const int level = merged_ + static_cast<int>(l);
    if (rows[l] > 0) {
      Descent down = descend(tape, tiles, rows, l, std::move(x));
      skips.push_back(std::move(down.skip));
      x = std::move(down.next);
      continue;
    }
    x = apply(levels_[l].encode, level, x);
    for (const SpaceTimeBlock& block : levels_[l].attention) x = apply(block, level, x, probe);
    skips.push_back(drop_channels(tape, apply(levels_[l].skip, level, x, probe), dropout, l));
    if (l + 1 < levels_.size()) x = lin(levels_[l].down, merge(tape, x));
  }

  Var d = std::move(skips.back());
  skips.pop_back();
  for (std::size_t l = levels_.size() - 1; l-- > 0; skips.pop_back()) {
    const int level = merged_ + static_cast<int>(l);
    if (rows[l] > 0) {
      d = ascend(tape, tiles, rows, l, std::move(d), std::move(skips.back()), base);
      continue;
    }
    const Rect tile = tiles.tile(level);
    d = unmerge(tape, lin(levels_[l].up, d), tile.height(), tile.width(), skips.back());
    d = apply(levels_[l].decode, level, d);
  }
  if (rows[0] > 0) return d;
  if (merged_ == 0) return lin(head_, d, base);
  const Rect tile = tiles.tile(0);
  return unmerge(tape, lin(head_, d), tile.height(), tile.width(), base);
}

} // namespace pluvia
