#pragma once
#include <string>
#include <utility>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/span.hpp"

namespace pluvia {

/// How the frames that go into a network and the leads that come out are cut over the ranks that share a
/// tile: contiguous parts, as even as possible, of whole blocks. A plain value.
class TimeAxis {
public:
  /// One part, which has whatever there is.
  TimeAxis() = default;
  /// block: frames, and leads, that stay together. Throws a usage Error when there are fewer blocks than
  /// parts.
  TimeAxis(int parts, Index frames, Index leads, Index block = 1);

  int parts() const { return parts_; }
  /// All of them; 0 where nobody said.
  Index frames() const { return frames_; }
  Index leads() const { return leads_; }
  Span frames_of(int part) const { return cut(frames_, part); }
  Span leads_of(int part) const { return cut(leads_, part); }

private:
  Span cut(Index n, int part) const;
  int parts_ = 1;
  Index frames_ = 0, leads_ = 0, block_ = 1;
};

/// Who owns what of the activations: every rank a tile of the domain, and on it some of the frames and of the
/// leads. The parts of a tile are neighbours (rank = tile * parts + part), for they exchange whole frames,
/// and tiles their edges. A plain value.
struct Partition {
  Tiling tiling;
  TimeAxis time;
  // NOLINTNEXTLINE(google-explicit-constructor): tiles alone are a partition
  Partition(Tiling tiles, TimeAxis axis = {}) : tiling(std::move(tiles)), time(axis) {}

  int ranks() const { return tiling.ranks() * time.parts(); }
  int part(int rank) const { return rank % time.parts(); }
  Rect tile(int rank, int level) const { return tiling.tile(rank / time.parts(), level); }
  Span frames(int rank) const { return time.frames_of(part(rank)); }
  Span leads(int rank) const { return time.leads_of(part(rank)); }
};

/// "2 parts of the frames x 3 x 4 ranks": the last two are rows and columns of tiles.
std::string describe(const Partition& partition);

} // namespace pluvia
