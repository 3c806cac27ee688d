#pragma once
#include "pluvia/ad/tape.hpp"

namespace pluvia {

/// gelu(x), cell by cell; the result carries `out_margin` for the consumer's halo. Local.
Var gelu(Tape& tape, const Var& x, Margin out_margin = {});

/// The adaptive gate: s a + (1 - s) b with s = sigmoid(g), per channel; all of one shape. Local.
Var blend(Tape& tape, const Var& g, const Var& a, const Var& b);

} // namespace pluvia
