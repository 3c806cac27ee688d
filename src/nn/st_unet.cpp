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

StUnet::StUnet(const ModelSettings& settings, const StUnetPorts& ports, std::uint64_t seed)
    : settings_(settings), pieces_(list_pieces(settings)), parameters_(seed),
      merged_(settings.input_merge == 2 ? 1 : 0) {
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
    if (std::ranges::any_of(pieces_,
                            [l](const Piece& p) { return p.kind == Piece::Kind::attend && p.level == l; }))
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

Var on_device(Var x, Device device) {
  return !x || x->value.device() == device ? std::move(x) : Tape::leaf(x->value.to(device));
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
  std::vector<Index> rows(levels_.size(), 0);
  if (!tape.recording() && !probe && dropout.rate == 0 && input->value.device() == Device::host)
    rows = slab_rows(tiles, input->value.shape().t, slab);
  Flow flow{std::move(input)};
  advance(tape, tiles, {0, static_cast<Index>(pieces_.size())}, rows, flow, base, dropout, probe);
  return std::move(flow.x);
}

void StUnet::advance(Tape& tape, Decomposition& tiles, Span pieces, const std::vector<Index>& rows,
                     Flow& flow, const Var& base, const Dropout& dropout, AttentionProbe* probe) {
  flow.skips.resize(levels_.size());
  const Device device = parameters_.device();
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
  // One name for what follows from another, so that a forecast lets go of what it has used.
  Var& x = flow.x;
  for (Index i = pieces.from; i < pieces.to; ++i) {
    const Piece piece = pieces_[static_cast<std::size_t>(i)];
    const auto l = static_cast<std::size_t>(piece.level);
    const int level = merged_ + piece.level;
    const bool coarsest = l + 1 == levels_.size(), by_slabs = rows[l] > 0;
    Var& skip = flow.skips[l];
    if (!by_slabs) x = on_device(std::move(x), device), skip = on_device(std::move(skip), device);
    switch (piece.kind) {
    case Piece::Kind::encode:
      if (by_slabs) { // with all that follows on the way down
        Descent down = descend(tape, tiles, rows, l, std::move(x));
        x = coarsest ? std::move(down.skip) : std::move(down.next);
        skip = std::move(down.skip);
        break;
      }
      if (l == 0) x = begin(tape, tiles, std::move(x));
      x = apply(levels_[l].encode, level, x);
      break;
    case Piece::Kind::attend:
      if (!by_slabs) x = apply(levels_[l].attention.front(), level, x, probe);
      break;
    case Piece::Kind::skip:
      if (by_slabs) break;
      skip = drop_channels(tape, apply(levels_[l].skip, level, x, probe), dropout, l);
      x = coarsest ? std::move(skip) : lin(levels_[l].down, merge(tape, x));
      break;
    case Piece::Kind::decode:
      if (by_slabs) {
        x = ascend(tape, tiles, rows, l, std::move(x), std::move(skip), base);
        break;
      }
      const Rect tile = tiles.tile(level);
      x = unmerge(tape, lin(levels_[l].up, x), tile.height(), tile.width(), skip);
      skip.reset();
      x = apply(levels_[l].decode, level, x);
      break;
    }
  }
  const bool whole_way = pieces.to == static_cast<Index>(pieces_.size());
  if (!whole_way || (rows[0] > 0 && levels_.size() > 1)) return; // slabs on the way up end with logits
  const Rect tile = tiles.tile(0);
  x = on_device(std::move(x), device);
  const Var start = on_device(base, device);
  x = merged_ == 0 ? lin(head_, x, start) : unmerge(tape, lin(head_, x), tile.height(), tile.width(), start);
}

} // namespace pluvia
