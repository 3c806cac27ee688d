#pragma once
#include <compare>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/halo.hpp"
#include "pluvia/comm/partition.hpp"
#include "pluvia/ops/attention.hpp"
#include "pluvia/ops/conv3d.hpp"
#include "pluvia/parallel/channel_share.hpp"

namespace pluvia {

// The plans and windows of one rank of a partition, without a communicator.

/// The cells and frames around a rank's own that a stencil reads; those outside the domain have no owner and
/// stay zero.
HaloPlan plan_stencil_halo(const Partition& partition, int level, int rank, const Stencil& stencil);
/// The keys that a rank's queries see, and the queries that see a rank's keys.
HaloPlan plan_key_halo(const Partition& partition, int level, int rank, const AttentionWindow& window);
HaloPlan plan_query_halo(const Partition& partition, int level, int rank, const AttentionWindow& window);
/// Windows of an axis of a level: `radius` cells around (wrapped where the axis closes), or aligned blocks.
AxisWindow around_y(const Tiling& tiling, int level, Index radius);
AxisWindow around_x(const Tiling& tiling, int level, Index radius);
AxisWindow block_y(const Tiling& tiling, int level, Index size);
AxisWindow block_x(const Tiling& tiling, int level, Index size);
/// All rows or columns of a level.
AxisWindow every_row(const Tiling& tiling, int level);
AxisWindow every_column(const Tiling& tiling, int level);
/// True when no query looks beyond its own cell and the frames of its rank: decided alike on every rank.
bool stays_home(const TimeAxis& time, const AttentionWindow& window);

/// Who exchanges: an operator, as a profile calls it, on one level in one pass.
struct Layer {
  std::string_view name;
  int level = 0;
  enum class Pass { forward, backward } pass = Pass::forward;
  auto operator<=>(const Layer&) const = default;
};

/// The tiles and frames of one domain over the ranks of one communicator, with the halo plans its operators
/// need: each is made once.
class Decomposition {
public:
  /// `comm` must outlive it and have partition.ranks() ranks; so must `channels`, where given: the ranks that
  /// hold the same tile and frames in such communicators of their own, over which channels are shared out.
  /// Collective over comm.
  Decomposition(const Communicator& comm, Partition partition, const Communicator* channels = nullptr);

  const Communicator& comm() const { return comm_; }
  /// The ranks that have the same frames, one for each tile; and those that have the same tile.
  const Communicator& space() const { return space_; }
  const Communicator& time() const { return time_; }
  /// Those that hold the same tile and frames as this one; may be null where it is alone.
  const Communicator* channels() const { return channels_; }
  ChannelShare channel_share() const {
    return channels_ ? ChannelShare{channels_->rank(), channels_->size()} : ChannelShare{};
  }
  const Partition& partition() const { return partition_; }
  const Tiling& tiling() const { return partition_.tiling; }
  Rect tile(int level) const { return partition_.tile(comm_.rank(), level); }
  Rect domain(int level) const { return tiling().domain(level); }
  int part() const { return partition_.part(comm_.rank()); }
  /// Of `all`, which a partition of several parts knows.
  Span frames(Index all) const { return divided() ? partition_.frames(comm_.rank()) : Span{0, all}; }
  Span leads(Index all) const { return divided() ? partition_.leads(comm_.rank()) : Span{0, all}; }

  /// The plans above for this rank, each made once.
  const HaloPlan& stencil_halo(int level, const Stencil& stencil);
  const HaloPlan& key_halo(int level, const AttentionWindow& window);
  const HaloPlan& query_halo(int level, const AttentionWindow& window);

  /// From now on values on accelerators travel from one to the other directly, where that is possible; says
  /// for people how they travel. Collective over comm().
  std::string link_accelerators();
  /// Starts an exchange over all ranks, whose cost is booked on a layer. Collective.
  HaloExchange exchange(const HaloPlan& plan, std::vector<Tensor*> tensors, const Layer& layer) {
    return {plan, comm_, std::move(tensors), halo_costs_[layer], link_.get()};
  }
  /// The same where there may be no exchange at all: by pointer, for one stays where it was started.
  std::unique_ptr<HaloExchange> held_exchange(const HaloPlan& plan, std::vector<Tensor*> tensors,
                                              const Layer& layer) {
    return std::make_unique<HaloExchange>(plan, comm_, std::move(tensors), halo_costs_[layer], link_.get());
  }
  /// Between accelerators; null where there is none.
  DeviceLink* link() const { return link_.get(); }
  /// What exchanges have cost this rank so far; who sends otherwise books it here, too.
  HaloCost& halo_cost(const Layer& layer) { return halo_costs_[layer]; }
  const std::map<Layer, HaloCost>& halo_costs() const { return halo_costs_; }

  AxisWindow around_y(int level, Index radius) const { return pluvia::around_y(tiling(), level, radius); }
  AxisWindow around_x(int level, Index radius) const { return pluvia::around_x(tiling(), level, radius); }
  /// All frames up to the query's, and all of them, where this rank holds `own`.
  AxisWindow past(Index own) const { return {AxisWindow::Kind::past, 0, all_frames(own)}; }
  AxisWindow every_frame(Index own) const { return {AxisWindow::Kind::all, 0, all_frames(own)}; }

private:
  using Key = std::tuple<int, int, Index, Index, Index, Index, Index, Index>;
  template <class Make> const HaloPlan& cached(const Key& key, Make&& make);
  bool divided() const { return partition_.time.parts() > 1; }
  Index all_frames(Index own) const { return divided() ? partition_.time.frames() : own; }
  const Communicator& comm_;
  Partition partition_;
  Communicator space_, time_;
  const Communicator* channels_;
  std::map<Key, HaloPlan> plans_;
  std::unique_ptr<DeviceLink> link_;
  std::map<Layer, HaloCost> halo_costs_;
};

} // namespace pluvia
