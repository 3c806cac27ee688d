#pragma once
#include <string>

#include "pluvia/core/settings.hpp"
#include "pluvia/nn/attention_probe.hpp"
#include "pluvia/nn/layers.hpp"
#include "pluvia/parallel/stencil.hpp"

namespace pluvia {

/// x + conv(GELU(conv(GELU(LN(x))))), both convolutions with one stencil.
struct ResidualBlock {
  NormLayer norm;
  ConvLayer first, second;
};
ResidualBlock make_residual_block(ParameterSet& set, const std::string& name, Index channels,
                                  const Stencil& stencil);
/// Collective over tiles.comm().
Var forward(const ResidualBlock& block, Tape& tape, Decomposition& tiles, int level, const Var& x);
/// The cells of a level, some perhaps outside the domain, that a block's output in `cells` is made from.
Rect seen_by(const ResidualBlock& block, const Tiling& tiling, int level, const Rect& cells);

/// Long short-term memory of each cell over its frames (see recur), fed by a linear layer.
struct Recurrence {
  LinearLayer input;           ///< C -> 4 C; its forget gates begin open
  Parameter* weight = nullptr; ///< of the hidden values, C -> 4 C
};
Recurrence make_recurrence(ParameterSet& set, const std::string& name, Index channels);

/// Attention over time and space, fused by an adaptive gate, then a two-layer perceptron:
/// n = LN(x); x += O(g spatial(n) + (1 - g) temporal(n)), g = sigmoid(W [spatial; temporal]); x +=
/// MLP(LN(x)). In the joint form one attention over frames <= t and the spatial window replaces the two; a
/// recurrence may stand for temporal attention. With global attention a second gate sets what they make, m,
/// against it: g2 global(n) + (1 - g2) m takes the place of m, g2 = sigmoid(W2 [global; m]).
/// Over the ranks of tiles.channels() heads, gates and hidden channels are shared out; norms, sums with x and
/// the steps of a recurrence are everybody's.
struct SpaceTimeBlock {
  AttentionSettings settings = {};
  Index uncut = 1; ///< cells of its level along the side of one of the network's coarsest
  struct Heads {
    LinearLayer q = {}, k = {}, v = {};
  };
  NormLayer norm = {}, mlp_norm = {};
  Heads spatial = {}, temporal = {}, global = {}; ///< temporal is unused in the joint form, and with
  std::vector<Recurrence> recurrence = {};        ///< none or one
  LinearLayer gate_spatial = {}, gate_temporal = {}, gate_global = {}, gate_mixed = {};
  LinearLayer output = {}, expand = {}, contract = {};
};
/// level: of the network, from 0.
SpaceTimeBlock make_space_time_block(ParameterSet& set, const std::string& name, Index channels,
                                     const ModelSettings& settings, int level);
/// A probe, where given, notes its weights and gate; channels must not be shared out then. Collective over
/// tiles.comm() and tiles.channels().
Var forward(const SpaceTimeBlock& block, Tape& tape, Decomposition& tiles, int level, const Var& x,
            AttentionProbe* probe = nullptr);
/// As above; without global attention.
Rect seen_by(const SpaceTimeBlock& block, const Tiling& tiling, int level, const Rect& cells);

/// Attention in a skip connection: every lead time asks each cell's T frames (and those of the cells `radius`
/// around) for what it needs, so T frames become one frame per lead. Queries are linear in a learned plus a
/// sinusoidal embedding of the lead hour (Vaswani et al. 2017).
struct SkipAttention {
  Index radius = 0;
  NormLayer norm;
  Parameter* lead_embedding = nullptr; ///< [1, leads, 1, 1, C]
  const Tensor* lead_waves = nullptr;  ///< of the same shape
  LinearLayer q = {}, k = {}, v = {}, output = {};
};
SkipAttention make_skip_attention(ParameterSet& set, const std::string& name, Index channels, Index radius,
                                  const std::vector<double>& lead_hours);
/// [B, T, Y, X, C] -> [B, leads, Y, X, C]. A probe, where given, notes its weights. Collective over
/// tiles.comm().
Var forward(const SkipAttention& skip, Tape& tape, Decomposition& tiles, int level, const Var& x,
            AttentionProbe* probe = nullptr);
/// As above.
Rect seen_by(const SkipAttention& skip, const Tiling& tiling, int level, const Rect& cells);

} // namespace pluvia
