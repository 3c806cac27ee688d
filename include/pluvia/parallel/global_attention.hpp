#pragma once
#include "pluvia/ad/tape.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

/// Linear attention of every cell to all cells of the domain (see ops/linear_attention.hpp): q, k, v and the
/// result [B, T, Y, X, C]. side: cells of this level along a square that no partition cuts, of which sums are
/// taken in f32 first. The sums over the domain cross ranks in one message in each pass; each rank
/// computes the whole gradient of its own cells. Collective over tiles.space().
Var global_attention(Tape& tape, Decomposition& tiles, int level, Index side, const Var& q, const Var& k,
                     const Var& v);

} // namespace pluvia
