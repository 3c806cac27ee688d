#pragma once
#include "pluvia/ad/tape.hpp"

namespace pluvia {

/// y = x W + b (+ residual) in every cell: [B, T, Y, X, C_in] -> [B, T, Y, X, C_out]; W [C_in, C_out] stored
/// as [1, 1, 1, C_in, C_out], b [C_out]. residual (may be null) is added in the same pass. The result carries
/// `out_margin` for the consumer's halo. Runs as a 1x1x1 convolution, so its bits do not depend on the tile.
/// Local.
Var linear(Tape& tape, const Var& x, Parameter& weight, Parameter& bias, const Var& residual = nullptr,
           Margin out_margin = {});

} // namespace pluvia
