#include "pluvia/comm/halo.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstring>

namespace pluvia {

namespace {

/// Where the cells of `owner` lie inside `needed`: once, or at every shift of a periodic axis. The rectangles
/// are in the unwrapped coordinates of `needed`, with the shift that was added to the owner's columns.
struct Overlap {
  Rect cells;
  Index shift;
};
std::vector<Overlap> overlaps(const Rect& needed, const Rect& owner, Index period) {
  std::vector<Overlap> out;
  const Index turns = period > 0 ? 1 + needed.width() / period : 0;
  for (Index k = -turns; k <= turns; ++k) {
    const Index shift = k * period;
    const Rect moved{owner.y0, owner.y1, owner.x0 + shift, owner.x1 + shift};
    const Rect common = intersect(needed, moved);
    if (!common.empty()) out.push_back({common, shift});
  }
  return out;
}

Rect relative(const Rect& r, const Rect& tile) {
  return {r.y0 - tile.y0, r.y1 - tile.y0, r.x0 - tile.x0, r.x1 - tile.x0};
}

/// Cuts the owned part out: what remains lies in the margins, in at most four pieces.
std::vector<Rect> outside(const Rect& r, const Rect& owned) {
  const Rect common = intersect(r, owned);
  if (common.empty()) return {r};
  std::vector<Rect> out;
  const auto keep = [&](Rect piece) {
    if (!piece.empty()) out.push_back(piece);
  };
  keep({r.y0, common.y0, r.x0, r.x1});
  keep({common.y1, r.y1, r.x0, r.x1});
  keep({common.y0, common.y1, r.x0, common.x0});
  keep({common.y0, common.y1, common.x1, r.x1});
  return out;
}

Index values_in(const HaloPlan::Piece& piece, const Tensor& t) {
  return piece.cells.cells() * t.shape().b * piece.frames_of(t.shape().t).size() * t.shape().c;
}

template <class RowCopy> void for_each_row(Tensor& tensor, const HaloPlan::Piece& piece, RowCopy&& copy) {
  const Shape& s = tensor.shape();
  const Rect& r = piece.cells;
  const Span frames = piece.frames_of(s.t);
  for (Index b = 0; b < s.b; ++b)
    for (Index t = frames.from; t < frames.to; ++t)
      for (Index y = r.y0; y < r.y1; ++y) copy(tensor.cell(b, t, y, r.x0), r.width() * s.c);
}

/// Adds the time it lives to a sum.
class Stopwatch {
public:
  explicit Stopwatch(double& sum) : sum_(sum) {}
  ~Stopwatch() { sum_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

private:
  using Clock = std::chrono::steady_clock;
  double& sum_;
  Clock::time_point start_ = Clock::now();
};

void zero_margins(Tensor& tensor) {
  const Shape& s = tensor.shape();
  const Margin& m = tensor.margin();
  const auto zero = [&](Index b, Index t, Index y, Index x, Index cells) {
    std::memset(tensor.cell(b, t, y, x), 0, static_cast<std::size_t>(cells * s.c) * sizeof(float));
  };
  for (Index b = 0; b < s.b; ++b)
    for (Index t = -m.t_lo; t < s.t + m.t_hi; ++t) {
      const bool ghost_frame = t < 0 || t >= s.t;
      for (Index y = -m.y_lo; y < s.y + m.y_hi; ++y) {
        if (ghost_frame || y < 0 || y >= s.y) {
          zero(b, t, y, -m.x_lo, s.x + m.x_lo + m.x_hi);
        } else {
          zero(b, t, y, -m.x_lo, m.x_lo);
          zero(b, t, y, s.x, m.x_hi);
        }
      }
    }
}

} // namespace

HaloPlan plan_halo(const Partition& partition, int level, int rank,
                   const std::function<Rect(const Rect&)>& needed, const TimeNeed& time) {
  HaloPlan plan;
  const Rect tile = partition.tile(rank, level), want = needed(tile);
  plan.margin = {0,
                 0,
                 static_cast<int>(tile.y0 - want.y0),
                 static_cast<int>(want.y1 - tile.y1),
                 static_cast<int>(tile.x0 - want.x0),
                 static_cast<int>(want.x1 - tile.x1)};
  const int part = partition.part(rank);
  Span own{}, wanted{};
  if (time.needed) {
    own = time.owned(part), wanted = time.needed(part);
    plan.margin.t_lo = static_cast<int>(own.from - wanted.from);
    plan.margin.t_hi = static_cast<int>(wanted.to - own.to);
  }
  const Index period =
      partition.tiling.x_edge() == Edge::periodic ? partition.tiling.domain(level).width() : 0;
  // Cells of a tile and frames of its part, as wanted around another, of which `same_part` owns the middle.
  const auto add = [&](std::vector<HaloPlan::Piece>& pieces, int peer, const Rect& around, const Rect& owner,
                       const Rect& middle, bool same_part, Span frames, bool sent) {
    for (const Overlap& overlap : overlaps(around, owner, period))
      for (Rect cells : same_part ? outside(overlap.cells, middle) : std::vector{overlap.cells}) {
        if (sent) cells.x0 -= overlap.shift, cells.x1 -= overlap.shift;
        pieces.push_back({peer, relative(cells, tile), frames});
      }
  };
  for (int peer = 0; peer < partition.ranks(); ++peer) {
    const Rect theirs = partition.tile(peer, level);
    const int their_part = partition.part(peer);
    const bool same_part = their_part == part;
    Span incoming = HaloPlan::every_frame, outgoing = HaloPlan::every_frame;
    if (!same_part) {
      if (!time.needed) continue;
      const Span their_own = time.owned(their_part);
      incoming = shifted(intersect(wanted, their_own), -own.from);
      outgoing = shifted(intersect(time.needed(their_part), own), -own.from);
    }
    if (same_part || incoming.size() > 0)
      add(plan.receives, peer, want, theirs, tile, same_part, incoming, false);
    // The same loops from the peer's point of view give the same pieces in the same order.
    if (same_part || outgoing.size() > 0)
      add(plan.sends, peer, needed(theirs), tile, theirs, same_part, outgoing, true);
  }
  return plan;
}

HaloExchange::HaloExchange(const HaloPlan& plan, const Communicator& comm, std::vector<Tensor*> tensors,
                           HaloCost& cost)
    : plan_(plan), cost_(cost), tensors_(std::move(tensors)) {
  const Stopwatch packing(cost_.pack_seconds);
  const auto prepare = [&](const std::vector<HaloPlan::Piece>& pieces, std::vector<Message>& messages) {
    for (const auto& piece : pieces) {
      if (messages.empty() || messages.back().peer != piece.peer) messages.push_back({piece.peer, {}});
      Index size = 0;
      for (const Tensor* t : tensors_) size += values_in(piece, *t);
      auto& data = messages.back().data;
      data.resize(data.size() + static_cast<std::size_t>(size));
    }
  };
  prepare(plan.receives, incoming_);
  prepare(plan.sends, outgoing_);
  for ([[maybe_unused]] const Tensor* t : tensors_) assert(t->margin() == plan.margin);

  constexpr int tag = 11;
  for (Message& m : incoming_) {
    if (m.peer == comm.rank()) continue;
    mpi_check(MPI_Irecv(m.data.data(), static_cast<int>(m.data.size()), MPI_FLOAT, m.peer, tag, comm.raw(),
                        &requests_.emplace_back()),
              "MPI_Irecv");
  }
  std::size_t piece = 0;
  for (Message& m : outgoing_) {
    float* out = m.data.data();
    for (; piece < plan.sends.size() && plan.sends[piece].peer == m.peer; ++piece)
      for (Tensor* t : tensors_)
        for_each_row(*t, plan.sends[piece], [&](const float* row, Index n) {
          std::memcpy(out, row, static_cast<std::size_t>(n) * sizeof(float));
          out += n;
        });
    if (m.peer == comm.rank()) {
      for (Message& in : incoming_)
        if (in.peer == m.peer) in.data.swap(m.data);
      continue;
    }
    cost_.bytes += static_cast<std::int64_t>(m.data.size() * sizeof(float));
    ++cost_.messages;
    mpi_check(MPI_Isend(m.data.data(), static_cast<int>(m.data.size()), MPI_FLOAT, m.peer, tag, comm.raw(),
                        &requests_.emplace_back()),
              "MPI_Isend");
  }
  for (Tensor* t : tensors_) zero_margins(*t);
}

HaloExchange::~HaloExchange() {
  if (!finished_) MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
}

void HaloExchange::finish() {
  {
    const Stopwatch waiting(cost_.wait_seconds);
    mpi_check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
              "MPI_Waitall");
  }
  finished_ = true;
  const Stopwatch unpacking(cost_.pack_seconds);
  std::size_t piece = 0;
  for (Message& m : incoming_) {
    const float* in = m.data.data();
    for (; piece < plan_.receives.size() && plan_.receives[piece].peer == m.peer; ++piece)
      for (Tensor* t : tensors_)
        for_each_row(*t, plan_.receives[piece], [&](float* row, Index n) {
          std::memcpy(row, in, static_cast<std::size_t>(n) * sizeof(float));
          in += n;
        });
  }
}

HaloTraffic halo_traffic(const HaloPlan& plan, int own_rank, Index frames, Index channels) {
  HaloTraffic traffic;
  int last = -1;
  for (const auto& piece : plan.sends) {
    if (piece.peer == own_rank) continue;
    traffic.bytes +=
        piece.cells.cells() * piece.frames_of(frames).size() * channels * static_cast<Index>(sizeof(float));
    if (piece.peer != last) ++traffic.messages;
    last = piece.peer;
  }
  return traffic;
}

} // namespace pluvia
