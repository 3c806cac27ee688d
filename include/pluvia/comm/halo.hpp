#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/device_link.hpp"
#include "pluvia/comm/partition.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/pinned_array.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Which cells of which frames one rank sends and receives so that its margins hold its neighbours'.
/// Made from one rule (what a rank needs, given what it owns) that every rank evaluates for every other: no
/// negotiation. Any rank may owe cells to any other, so a halo wider than a tile needs no special case.
/// On a periodic x axis needed columns may lie outside [0, nx). A plain value.
struct HaloPlan {
  /// Frames of a piece that are all those of the tensor, however many.
  static constexpr Span every_frame{0, -1};
  struct Piece {
    int peer;
    Rect cells;  ///< relative to the corner of this rank's tile
    Span frames; ///< relative to its first one; cells or frames lie in the margins where received
    /// Of a tensor that has so many.
    Span frames_of(Index all) const { return frames == every_frame ? Span{0, all} : frames; }
  };
  std::vector<Piece> sends, receives; ///< ascending peers, in an order both sides agree on
  Margin margin;                      ///< of this rank
};

/// What each part of a time axis owns and what it needs. Empty: its own frames or leads alone.
struct TimeNeed {
  std::function<Span(int part)> owned, needed;
};
/// needed: around a tile, which it contains.
HaloPlan plan_halo(const Partition& partition, int level, int rank,
                   const std::function<Rect(const Rect&)>& needed, const TimeNeed& time = {});

/// What exchanges have cost a rank so far.
struct HaloCost {
  double pack_seconds = 0; ///< copying into and out of messages, zeroing what lies outside the domain
  double wait_seconds = 0; ///< waiting for neighbours, not hidden behind work
  std::int64_t bytes = 0, messages = 0; ///< sent
};

/// Fills the margins of tensors from their owners: construct to start, finish() to complete, and work on the
/// interior in between. Ghost cells outside the domain, and frames before the first or past the last, are set
/// to zero. All tensors travel in one message per neighbour. Collective over `comm`: every rank of the
/// partition, the same tensors in the same order. The tensors must have the plan's margins and lie on one device;
/// from and to an accelerator messages travel over a link, or through the hosts' memory where there is none.
class HaloExchange {
public:
  /// The cost is added to `cost`, which like the plan and the link must outlive the exchange.
  HaloExchange(const HaloPlan& plan, const Communicator& comm, std::vector<Tensor*> tensors, HaloCost& cost,
               DeviceLink* link = nullptr);
  ~HaloExchange();
  HaloExchange(const HaloExchange&) = delete;
  HaloExchange& operator=(const HaloExchange&) = delete;
  void finish();

private:
  struct Message {
    int peer;
    std::size_t size = 0;
    std::unique_ptr<float[]> data = {}; ///< undefined until received or packed
    DeviceArray<float> there = {};      ///< of tensors on an accelerator
    PinnedArray<float> staged = {};     ///< the same where it travels through the host's memory
    std::span<float> here() { return {data ? data.get() : staged.data(), size}; }
  };
  void pack_all();
  float* pack(const HaloPlan::Piece& piece, Tensor& tensor, float* message) const;
  const float* unpack(const HaloPlan::Piece& piece, const float* message, Tensor& tensor) const;
  void post(Message& message, bool receive);
  const HaloPlan& plan_;
  const Communicator& comm_;
  HaloCost& cost_;
  DeviceLink* link_; ///< of the tensors' accelerators, or null
  std::vector<Tensor*> tensors_;
  std::vector<Message> outgoing_, incoming_;
  std::vector<MPI_Request> requests_;
  bool on_gpu_ = false, finished_ = false;
};

/// Bytes that this rank sends in one exchange of tensors of `frames` frames of `channels` values, and to how
/// many ranks.
struct HaloTraffic {
  std::int64_t bytes = 0;
  int messages = 0;
};
HaloTraffic halo_traffic(const HaloPlan& plan, int own_rank, Index frames, Index channels);

} // namespace pluvia
