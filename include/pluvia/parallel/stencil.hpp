#pragma once
#include <functional>

#include "pluvia/ad/tape.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

// Operators that look beyond the tile and its frames: one tape node each, which exchanges its halo, and whose pull-back is
// in gather form: it exchanges the halo of the output's gradient and each rank computes the whole gradient of
// its own cells. Nothing is scattered or added across ranks, so the bits do not depend on the partition.

/// Convolution over all tiles: y = b + w * x (+ residual). x [B, T, Y, X, C_in] must carry margins of
/// reach(stencil), which this fills; zeros lie outside the domain and before the first frame.
/// weight [t, y, x, C_in, C_out]. The exchange of the gradient's halo travels behind the weight gradient.
/// Collective over tiles.comm().
Var conv3d(Tape& tape, Decomposition& tiles, int level, const Var& x, Parameter& weight, Parameter& bias,
           const Stencil& stencil, const Var& residual = nullptr);

/// What a profile calls an attention.
const char* attention_name(const AttentionWindow& window);

/// The margins that attention wants around queries, and around keys and values.
Margin query_margin(Decomposition& tiles, int level, const AttentionWindow& window);
Margin key_margin(Decomposition& tiles, int level, const AttentionWindow& window);

/// Is shown what one attention is computed from: queries, keys with their halo, windows, and where the tile
/// lies.
using AttentionView =
    std::function<void(const Tensor& q, const Tensor& k, const AttentionWindow& window, TileOrigin origin)>;

/// Attention over all tiles (see attend): q with query_margin, or [1, all leads, 1, 1, C] when all cells ask
/// alike; k and v with key_margin, which this fills. Returns o [B, Tq, Y, X, C], Tq this rank's frames, or
/// leads. A view, where given, is shown them
/// once. Collective over tiles.comm() unless the window stays home.
Var attention(Tape& tape, Decomposition& tiles, int level, const Var& q, const Var& k, const Var& v,
              const AttentionWindow& window, const AttentionView& view = {});

} // namespace pluvia
