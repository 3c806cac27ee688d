#pragma once
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/halo.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/ops/attention.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

// The plans and windows of one rank of a tiling, without a communicator.

/// The cells around a tile that a stencil reads; those outside the domain have no owner and stay zero.
HaloPlan plan_stencil_halo(const Tiling& tiling, int level, int rank, const Stencil& stencil);
/// The keys that a tile's queries see, and the queries that see a tile's keys.
HaloPlan plan_key_halo(const Tiling& tiling, int level, int rank, const AxisWindow& y, const AxisWindow& x);
HaloPlan plan_query_halo(const Tiling& tiling, int level, int rank, const AxisWindow& y, const AxisWindow& x);
/// Windows of an axis of a level: `radius` cells around (wrapped where the axis closes), or aligned blocks.
AxisWindow around_y(const Tiling& tiling, int level, Index radius);
AxisWindow around_x(const Tiling& tiling, int level, Index radius);
AxisWindow block_y(const Tiling& tiling, int level, Index size);
AxisWindow block_x(const Tiling& tiling, int level, Index size);

/// The tiles of one domain over the ranks of one communicator, with the halo plans its operators need: each
/// is made once. Row-major: rank = row * cols + col.
class Decomposition {
public:
  /// `comm` must outlive it and have tiling.ranks() ranks.
  Decomposition(const Communicator& comm, Tiling tiling);

  const Communicator& comm() const { return comm_; }
  const Tiling& tiling() const { return tiling_; }
  Rect tile(int level) const { return tiling_.tile(comm_.rank(), level); }
  Rect domain(int level) const { return tiling_.domain(level); }

  /// The plans above for this rank, each made once.
  const HaloPlan& stencil_halo(int level, const Stencil& stencil);
  const HaloPlan& key_halo(int level, const AxisWindow& y, const AxisWindow& x);
  const HaloPlan& query_halo(int level, const AxisWindow& y, const AxisWindow& x);

  /// Starts an exchange over all tiles, whose cost is booked below. Collective.
  HaloExchange exchange(const HaloPlan& plan, std::vector<Tensor*> tensors) {
    return {plan, comm_, std::move(tensors), halo_cost_};
  }
  /// What the exchanges have cost this rank so far.
  const HaloCost& halo_cost() const { return halo_cost_; }

  AxisWindow around_y(int level, Index radius) const { return pluvia::around_y(tiling_, level, radius); }
  AxisWindow around_x(int level, Index radius) const { return pluvia::around_x(tiling_, level, radius); }
  AxisWindow block_y(int level, Index size) const { return pluvia::block_y(tiling_, level, size); }
  AxisWindow block_x(int level, Index size) const { return pluvia::block_x(tiling_, level, size); }

private:
  using Key = std::tuple<int, int, Index, Index, Index, Index>;
  template <class Make> const HaloPlan& cached(const Key& key, Make&& make);
  const Communicator& comm_;
  Tiling tiling_;
  std::map<Key, HaloPlan> plans_;
  HaloCost halo_cost_;
};

} // namespace pluvia
