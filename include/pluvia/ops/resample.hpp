#pragma once
#include "pluvia/ad/tape.hpp"

namespace pluvia {

/// Lays the channels of 2 x 2 cells side by side, (row, column, channel) order: [B, T, Y, X, C] ->
/// [B, T, ceil(Y/2), ceil(X/2), 4 C]; cells beyond an odd edge count as zero. Needs no halo, since tiles
/// start on whole coarse cells. Local.
Var merge(Tape& tape, const Var& x);

/// The transpose of merge onto a grid of height x width fine cells, plus an optional addend of the result's
/// shape: [B, T, ceil(Y/2), ceil(X/2), 4 C] -> [B, T, Y, X, C]. Local.
Var unmerge(Tape& tape, const Var& x, Index height, Index width, const Var& addend = nullptr);

/// The first cell of a rectangle.
struct Corner {
  Index y = 0, x = 0;
};
/// Copies height x width cells of all frames from one place of a tensor, which may lie in its margins, to one
/// of another; of the same frames and channels, both on one device. Local.
void copy_cells(const Tensor& from, Corner at, Tensor& to, Corner there, Index height, Index width);

} // namespace pluvia
