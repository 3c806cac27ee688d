#pragma once
#include "pluvia/core/span.hpp"
#include "pluvia/ops/attention.hpp"

namespace pluvia {

/// Which channels one rank of a group computes that holds the same tile, frames and stage: whole heads, as
/// evenly as possible. A plain value.
struct ChannelShare {
  int member = 0, members = 1;

  Span of(Index channels) const {
    const Index heads = channels / head_channels;
    return {heads * member / members * head_channels, heads * (member + 1) / members * head_channels};
  }
  Index size(Index channels) const { return of(channels).size(); }
  /// The share on a level: with fewer heads than ranks every rank computes all of them.
  ChannelShare on(Index channels) const {
    return channels / head_channels < members ? ChannelShare{} : *this;
  }
  ChannelShare of_member(int other) const { return {other, members}; }
  bool whole() const { return members == 1; }
};

} // namespace pluvia
