#pragma once
#include <string_view>

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

/// Of a value [B, T, Y, X, own of `channels`] that is there in shares; the whole carries a margin for its
/// consumer's halo.
Channels gather_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& own,
                         Index channels, Margin margin = {});

/// The rank's own channels of x W + b (+ residual, of these channels alone); see linear().
Var linear_own(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual = nullptr, Margin out_margin = {});

/// All channels of x W + b (+ residual), gathered.
Var linear_all(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual = nullptr);

/// The same of a convolution; see conv3d(). x.all carries margins of reach(stencil). Collective over
/// tiles.comm(), too.
Var conv3d_own(Tape& tape, Decomposition& tiles, int level, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Stencil& stencil);
Var conv3d_all(Tape& tape, Decomposition& tiles, int level, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Stencil& stencil, const Var& residual = nullptr);

/// What these compute on a rank, to `output` with all its channels, when so many ranks share out the gradient
/// of the weights.
Work shared_work(std::string_view name, const ChannelShare& share, const Shape& output, const Shape& weight,
                 int gradient_members);

/// What a rank sends so that all have all channels of a value.
HaloTraffic gather_traffic(const ChannelShare& share, const Shape& all);

} // namespace pluvia
