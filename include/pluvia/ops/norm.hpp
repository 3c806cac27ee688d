#pragma once
#include "pluvia/ad/tape.hpp"

namespace pluvia {

enum class Activation { none, gelu };

/// Layer normalisation over the channels of each cell, then an activation:
/// y = act(gain (x - mean) / sqrt(variance + 1e-5) + bias) (Ba et al. 2016). x [B, T, Y, X, C], C a multiple
/// of 16; gain, bias [C]. The result carries `out_margin` for the consumer's halo (undefined until
/// exchanged). Channel sums run in 16 fixed lanes and a fixed tree: the same bits on every processor. Local.
Var layer_norm(Tape& tape, const Var& x, Parameter& gain, Parameter& bias, Activation activation,
               Margin out_margin = {});

} // namespace pluvia
