#pragma once
#include "pluvia/ad/tape.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

// Operators whose channels are shared out over the ranks of tiles.channels(), which hold the same cells. Each
// rank computes some channels of the output, and of the input's gradient, from all that they depend on, so
// that every value is the chain of roundings of one rank; nothing is added across ranks. With the share of a
// single rank nothing is copied and nothing travels. Collective over tiles.channels().

/// A value of which a rank works on some channels, and knows all. Gradients are collected in `own`.
struct Channels {
  Var own, all;
};

/// Of a value that every rank has as a whole; so is its gradient, made of those of all ranks' channels.
Channels share_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& x);

/// Of a value [B, T, Y, X, own of `channels`] that is there in shares.
Channels gather_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& own,
                         Index channels);

/// The rank's own channels of x W + b (+ residual, of these channels alone); see linear().
Var linear_own(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual = nullptr, Margin out_margin = {});

/// All channels of x W + b (+ residual), gathered.
Var linear_all(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual = nullptr);

/// What linear_own and linear_all compute on a rank, to `output` with all its channels.
Work shared_linear_work(const ChannelShare& share, const Shape& output, Index c_in, int gradient_members);

/// What a rank sends so that all have all channels of a value.
HaloTraffic gather_traffic(const ChannelShare& share, const Shape& all);

} // namespace pluvia
