#pragma once
#include <vector>

#include "pluvia/core/settings.hpp"

namespace pluvia {

/// A part of the network, between which it may be cut into stages.
struct Piece {
  enum class Kind {
    encode, ///< residual block of a level; on level 0 after the stem
    attend, ///< its space-time block
    skip, ///< attention of lead times, then the way down to the next level; of the coarsest the way up begins
    decode ///< up from the next coarser level, + skip, residual block
  };
  Kind kind;
  int level; ///< of the network, from 0
};

/// In the order of the forward pass; the head follows the last one.
std::vector<Piece> list_pieces(const ModelSettings& settings);

/// The levels whose channels so many ranks can share out: at least 16, those of a head of attention, for
/// each. On others every rank computes all of them.
std::vector<int> shared_levels(const ModelSettings& settings, int ranks);
/// Throws a usage Error when there is none, and several ranks. Local.
void require_shares(const ModelSettings& settings, int ranks);

} // namespace pluvia
