#pragma once
#include "pluvia/core/precision.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// What a recurrence carries from frame to frame in some rows of a tile, or the gradient by it: [B, 1, rows,
/// X, C] each.
struct CellState {
  Tensor hidden, memory;
};
CellState zero_state(const Shape& hidden, Index rows, Device device = Device::host);

/// What its pull-back needs, over the frames of a tile: what the gates came to [B, T, Y, X, 4 C], the memory
/// after each frame, with that before the first in its margin, and the hidden values before each frame.
struct RecurrenceRecord {
  Tensor gates, memory, hidden_before;
};
RecurrenceRecord make_recurrence_record(const Shape& hidden, Device device = Device::host);

/// Long short-term memory in every cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al.
/// 2000): z_t + h_(t-1) U = (i, f, o, g), c_t = s(f) c_(t-1) + s(i) tanh(g), h_t = s(o) tanh(c_t), s the
/// sigmoid. Goes through the tile's frames in some of its rows, from `state` to what it becomes; z [B, T, Y,
/// X, 4 C], U [1, 1, 1, C, 4 C], h and hidden [B, T, Y, X, C]; no record is kept where it is null. The bits of a cell depend on nothing but the
/// cell. Local.
void recur(Precision precision, const Tensor& z, const Tensor& weight, Span rows, CellState& state,
           RecurrenceRecord* record, Tensor& hidden);

/// Backwards through the frames, with the gradient by the hidden values [B, T, Y, X, C]: by `state` after the
/// last frame becomes that by the state before the first; dz [B, T, Y, X, 4 C]. The gradient of U is that of
/// a linear layer from hidden_before to dz. Local.
void recur_gradients(Precision precision, const Tensor& d_hidden, const Tensor& weight, Span rows,
                     const RecurrenceRecord& record, CellState& state, Tensor& dz);

} // namespace pluvia
