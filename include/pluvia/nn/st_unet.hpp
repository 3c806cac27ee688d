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

/// Levels that a Tiling needs for a network: one per entry of model.channels, and one more when the input is
/// merged.
int levels_of(const ModelSettings& settings);

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
  /// An input that is moved in is let go of as soon as it has been read. Collective over tiles.comm().
  Var forward(Tape& tape, Decomposition& tiles, Var input, const Var& base,
              const Dropout& dropout = {}, AttentionProbe* probe = nullptr);
  /// What flows from one piece to the next, and what the way down has left for the way up.
  struct Flow {
    Var x;                       ///< of the first piece the input, of the last one the logits
    std::vector<Var> skips = {}; ///< by level; null before they are made and after they have been used
  };
  /// Takes the flow through some of list_pieces(settings), numbered in their order: what forward() does with
  /// all. `base` is needed by the last one. Collective over tiles.comm().
  void advance(Tape& tape, Decomposition& tiles, Span pieces, Flow& flow, const Var& base,
               const Dropout& dropout = {}, AttentionProbe* probe = nullptr);
  const std::vector<Piece>& pieces() const { return pieces_; }
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
