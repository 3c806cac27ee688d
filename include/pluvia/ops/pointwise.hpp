#pragma once
#include <cstdint>

#include "pluvia/ad/tape.hpp"

namespace pluvia {

/// gelu(x), cell by cell; the result carries `out_margin` for the consumer's halo. Local.
Var gelu(Tape& tape, const Var& x, Margin out_margin = {});

/// Which channels a training sample does without: a function of these numbers, the layer and the channel, the
/// same for all cells and frames and so on every process grid.
struct Dropout {
  double rate = 0; ///< probability, 0..1
  std::uint64_t seed = 0, sample = 0;
  /// Where not null, the sample's number is read there, in the accelerator's memory, when kernels run: a
  /// recorded step is replayed for other samples.
  const std::uint64_t* sample_there = nullptr;
};

/// Drops whole channels of x and scales the others by 1 / (1 - rate) (Tompson et al. 2015, arXiv:1411.4280);
/// x itself at rate 0. Local.
Var drop_channels(Tape& tape, const Var& x, const Dropout& dropout, std::uint64_t layer);

/// The adaptive gate: s a + (1 - s) b with s = sigmoid(g), per channel; all of one shape. Local.
Var blend(Tape& tape, const Var& g, const Var& a, const Var& b);

} // namespace pluvia
