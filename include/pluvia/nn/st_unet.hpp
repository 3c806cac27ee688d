#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/core/span.hpp"
#include "pluvia/nn/blocks.hpp"
#include "pluvia/nn/pieces.hpp"
#include "pluvia/ops/pointwise.hpp"

namespace pluvia {

/// What a network is built from, besides its settings.
struct StUnetPorts {
  Index inputs = 0;               ///< channels of the input
  std::vector<double> lead_hours; ///< one output frame per lead
  Index classes = 0;              ///< K + 1 ordered classes
};

/// How many rows of a level a forecast works on at a time.
struct SlabSize {
  Index values = Index{1} << 23; ///< as many as have so many activations over all frames,
  Index rows = 32;               ///< but no fewer than these, around which rows are computed twice
};

/// Levels that a Tiling needs for a network: one per entry of model.channels, and one more when the input is
/// merged.
int levels_of(const ModelSettings& settings);

/// x itself where it lies there, or a copy for a pass without gradients.
Var on_device(Var x, Device device);

/// The spatio-temporal U-Net: a causal 3-D convolution encoder with space-time attention on chosen levels,
/// skips by lead-time queries, and a decoder over leads. Its parameters are replicated; its activations are
/// tiled.
class StUnet {
public:
  /// Throws a usage Error when the settings contradict each other.
  StUnet(const ModelSettings& settings, const StUnetPorts& ports, std::uint64_t seed);

  ParameterSet& parameters() { return parameters_; }
  /// The margins that forward() wants around its input.
  Margin input_margin() const;
  /// input [B, T, Y, X, inputs] -> f [B, leads, Y, X, K + 1] with logits = base + f; base (the logarithms of
  /// class probabilities) has the shape of the logits. In training, skips lose the channels that `dropout`
  /// says; in forecasts a probe notes what its cells attend to. Tiles of level 0, also of a tiling with more
  /// levels.
  /// An input that is moved in is let go of as soon as it has been read.
  /// When the tape forgets, levels whose tiles have more rows than a slab are computed slab by slab, to the
  /// same bits: what lies between the input of such a level and its skip never exists as a whole. Not so with
  /// a probe, with frames over ranks, and on levels with global attention. Where the network is on an accelerator
  /// and the input is not, slabs go there and back and the rest moves there; slabs are sixteen times as large then.
  /// Collective over tiles.comm().
  Var forward(Tape& tape, Decomposition& tiles, Var input, const Var& base,
              const Dropout& dropout = {}, AttentionProbe* probe = nullptr, const SlabSize& slab = {});
  /// What flows from one piece to the next, and what the way down has left for the way up.
  struct Flow {
    Var x;                       ///< of the first piece the input, of the last one the logits
    std::vector<Var> skips = {}; ///< by level; null before they are made and after they have been used
  };
  /// Takes the flow through some of list_pieces(settings), numbered in their order: what forward() does with
  /// all. `base` is needed by the last one. Levels are computed as a whole. Collective over tiles.comm().
  void advance(Tape& tape, Decomposition& tiles, Span pieces, Flow& flow, const Var& base,
               const Dropout& dropout = {}, AttentionProbe* probe = nullptr) {
    advance(tape, tiles, pieces, std::vector<Index>(levels_.size(), 0), flow, base, dropout, probe);
  }
  const ModelSettings& settings() const { return settings_; }
  /// Level of the tiling that the first entry of model.channels lies on: 1 when the input is merged, else 0.
  int first_level() const { return merged_; }

private:
  struct Level {
    ResidualBlock encode;
    std::vector<SpaceTimeBlock> attention = {}; ///< none or one
    SkipAttention skip = {};
    LinearLayer down = {}; ///< 4 C_l -> C_(l+1), not on the coarsest level
    LinearLayer up = {};   ///< C_(l+1) -> 4 C_l, not on the coarsest level
    ResidualBlock decode = {};
  };
  /// The same, with so many rows of each level at a time (see slab_rows).
  void advance(Tape& tape, Decomposition& tiles, Span pieces, const std::vector<Index>& rows, Flow& flow,
               const Var& base, const Dropout& dropout, AttentionProbe* probe);
  /// What comes before the first level.
  Var begin(Tape& tape, Decomposition& tiles, Var input);

  // A level slab by slab (st_unet_slabs.cpp).
  /// Rows of a slab of each level, 0 = the level is computed as a whole; decided alike on every rank.
  std::vector<Index> slab_rows(const Decomposition& tiles, Index frames, const SlabSize& slab) const;
  struct Descent {
    Var skip, next; ///< of the level, and the input of the next one, if there is one
  };
  Descent descend(Tape& tape, Decomposition& tiles, const std::vector<Index>& rows, std::size_t l, Var x);
  /// From the next level's decoder output and the skip to the level's own; of the first level to the logits.
  Var ascend(Tape& tape, Decomposition& tiles, const std::vector<Index>& rows, std::size_t l, Var d, Var skip,
             const Var& base);
  // Who needs what around a tile: of the input of a level (of the network), of its skip, of the next level's
  // decoder output.
  HaloPlan input_halo(const Decomposition& tiles, std::size_t l) const;
  HaloPlan skip_halo(const Decomposition& tiles, std::size_t l) const;
  HaloPlan decoder_halo(const Decomposition& tiles, std::size_t l) const;
  /// Of a level's decoder output, for the level before.
  Margin decoder_margin(const Decomposition& tiles, const std::vector<Index>& rows, std::size_t l) const;
  Rect seen_by_skip(const Tiling& tiling, std::size_t l, const Rect& cells) const;
  Rect seen_by_level(const Tiling& tiling, std::size_t l, const Rect& cells) const;
  Rect seen_by_decoder(const Tiling& tiling, std::size_t l, const Rect& cells) const;

  ModelSettings settings_;
  std::vector<Piece> pieces_;
  ParameterSet parameters_;
  int merged_; ///< level of the first entry of model.channels: 1 when the input is merged, else 0
  LinearLayer entry_;
  ConvLayer stem_;
  std::vector<Level> levels_;
  LinearLayer head_;
};

} // namespace pluvia
