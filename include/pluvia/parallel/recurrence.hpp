#pragma once
#include "pluvia/ad/tape.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

/// Rows of a tile that a recurrence goes through at a time: all, or up to eight strips where it passes through
/// several parts of the frames.
std::vector<Span> recurrence_strips(Index rows, int parts);

/// A recurrence through all frames in every cell (see recur): z [B, T, Y, X, 4 C], weight [1, 1, 1, C, 4 C]
/// -> hidden values [B, T, Y, X, C]. Where frames are cut over ranks the state of each strip of rows travels
/// from part to part, so that P parts work on P strips at once: with S strips they idle (P - 1) / (S + P - 1)
/// of this operator, forward and backward, and not at all in others. Collective over tiles.time().
Var recurrence(Tape& tape, Decomposition& tiles, const Var& z, Parameter& weight);

} // namespace pluvia
