#pragma once
#include <vector>

#include "pluvia/core/order_free_sums.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/ops/axis_window.hpp"
#include "pluvia/ops/output_parts.hpp"

namespace pluvia {

constexpr int head_channels = 16;

/// Attention of each query over a box of keys, heads of 16 channels (Vaswani et al. 2017 over the windows of
/// Hassani et al. 2023): o = sum_j softmax_j(q . k_j / 4) v_j, keys in the order of global frame, row,
/// column. One kernel serves temporal (past, own, own), neighbourhood (own, around, around), windowed (own,
/// block, block) and joint (past, around, around) attention, and the lead-time queries (all, around, around).
struct AttentionWindow {
  AxisWindow t, y, x;
};

/// Where a tile lies: global index of its first row and column, and of the first of its queries' frames and
/// of its keys' (leads, where those ask).
struct TileOrigin {
  Index y = 0, x = 0;
  Index query_frame = 0, key_frame = 0;
};

/// q [B, Tq, Y, X, C], or [1, all leads, 1, 1, C] when all cells ask alike; k, v [B, Tk, Y, X, C] with
/// margins that hold every key, or that `arrival` fills; o [B, Tq, Y, X, C]; log_sum [B, Tq, Y, X, C / 16]
/// (log of the softmax normaliser). Local but for the arrival.
void attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
            TileOrigin origin, Tensor& o, Tensor& log_sum, const Arrival& arrival = {});

/// The weights softmax_j(q . k_j / 4) of one query of sample 0, frame t and cell (y, x) of the tile, over its
/// keys: [C / 16, frames, rows, columns], for showing what attend does; keys and margins as there. Local.
std::vector<float> attention_weights(const Tensor& q, const Tensor& k, const AttentionWindow& window,
                                     TileOrigin origin, Index t, Index y, Index x);

/// delta = sum over a head's channels of do o: [B, Tq, Y, X, C / 16]. Local.
void attend_delta(const Tensor& d_o, const Tensor& o, Tensor& delta);

/// Gradients of this tile's queries (left out when dq is null), keys and values, in gather form: keys and
/// values take what the queries around them give, so q, d_o, log_sum and delta need margins that hold every
/// query that sees a key of this tile, or that `arrival` fills. Shared queries [1, all leads, 1, 1, C] sum
/// over the tile's cells and leads, rows in order, into dq; or, where they are given, cell by cell into
/// shared_sums, and dq is left alone. Local but for the arrival.
void attend_gradients(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                      const Tensor& log_sum, const Tensor& delta, const AttentionWindow& window,
                      TileOrigin origin, Tensor* dq, Tensor& dk, Tensor& dv,
                      OrderFreeSums* shared_sums = nullptr, const Arrival& arrival = {});

/// Pairs of a query cell and a key cell over the queries of a tile.
double attended_pairs(const Shape& queries, const AttentionWindow& window, TileOrigin origin);

} // namespace pluvia
