#include "pluvia/comm/halo.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "halo_kernels.hpp"
#include "pluvia/comm/messages.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/stopwatch.hpp"

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

/// Calls copy(row of the tensor, row of the message, values) for all rows of a piece; returns what lies
/// behind them in the message.
template <class Value, class RowCopy>
Value* for_each_row(Tensor& tensor, const HaloPlan::Piece& piece, Value* message, RowCopy&& copy) {
  const Shape& s = tensor.shape();
  const Rect& r = piece.cells;
  const Span frames = piece.frames_of(s.t);
  const Index height = r.height(), values = r.width() * s.c, rows = s.b * frames.size() * height;
  const auto row = [&](Index i) {
    copy(tensor.cell(i / height / frames.size(), frames.from + i / height % frames.size(), r.y0 + i % height,
                     r.x0),
         message + i * values, values);
  };
  constexpr Index worth_threads = 1 << 16; // values
  if (rows * values < worth_threads)
    for (Index i = 0; i < rows; ++i) row(i);
  else
    parallel_for(rows, row);
  return message + rows * values;
}

void zero_margins(Tensor& tensor) {
  const Shape& s = tensor.shape();
  const Margin& m = tensor.margin();
  const auto zero = [&](Index b, Index t, Index y, Index x, Index cells) {
    std::memset(tensor.cell(b, t, y, x), 0, static_cast<std::size_t>(cells * s.c) * sizeof(float));
  };
  const Index frames = s.t + m.t_lo + m.t_hi, height = s.y + m.y_lo + m.y_hi;
  parallel_for(s.b * frames, [&](Index i) {
    const Index b = i / frames, t = i % frames - m.t_lo;
    if (t < 0 || t >= s.t) return zero(b, t, -m.y_lo, -m.x_lo, height * (s.x + m.x_lo + m.x_hi));
    for (Index y = -m.y_lo; y < s.y + m.y_hi; ++y) {
      if (y < 0 || y >= s.y) {
        zero(b, t, y, -m.x_lo, s.x + m.x_lo + m.x_hi);
      } else {
        zero(b, t, y, -m.x_lo, m.x_lo);
        zero(b, t, y, s.x, m.x_hi);
      }
    }
  });
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
                           HaloCost& cost, DeviceLink* link)
    : plan_(plan), comm_(comm), cost_(cost), link_(tensors.front()->device() == Device::gpu ? link : nullptr),
      tensors_(std::move(tensors)), on_gpu_(tensors_.front()->device() == Device::gpu) {
  const Stopwatch packing(cost_.pack_seconds);
  for ([[maybe_unused]] const Tensor* t : tensors_) assert(t->margin() == plan.margin);
  const auto prepare = [&](const std::vector<HaloPlan::Piece>& pieces, std::vector<Message>& messages) {
    for (const auto& piece : pieces) {
      if (messages.empty() || messages.back().peer != piece.peer) messages.push_back({piece.peer});
      for (const Tensor* t : tensors_) messages.back().size += static_cast<std::size_t>(values_in(piece, *t));
    }
    for (Message& m : messages) {
      if (!on_gpu_)
        m.data = std::make_unique_for_overwrite<float[]>(m.size);
      else
        m.there = DeviceArray<float>(m.size);
      if (on_gpu_ && !link_ && m.peer != comm.rank()) m.staged = PinnedArray<float>(m.size);
    }
  };
  prepare(plan.receives, incoming_);
  prepare(plan.sends, outgoing_);
  if (!link_)
    for (Message& m : incoming_)
      if (m.peer != comm.rank()) post(m, true);
  pack_all();
  if (link_) {
    const auto elsewhere = [&](std::vector<Message>& messages) {
      std::vector<DeviceLink::Message> out;
      for (Message& m : messages)
        if (m.peer != comm.rank()) out.push_back({m.peer, m.there.data(), m.size});
      return out;
    };
    link_->start(elsewhere(outgoing_), elsewhere(incoming_));
  }
  for (Tensor* t : tensors_) {
    if (on_gpu_)
      kernels::zero_margins(t->view(), t->margin());
    else
      zero_margins(*t);
  }
}

/// Fills what leaves, and sends it but over a link.
void HaloExchange::pack_all() {
  std::size_t piece = 0;
  for (Message& m : outgoing_) {
    float* out = on_gpu_ ? m.there.data() : m.data.get();
    for (; piece < plan_.sends.size() && plan_.sends[piece].peer == m.peer; ++piece)
      for (Tensor* t : tensors_) out = pack(plan_.sends[piece], *t, out);
    if (m.peer == comm_.rank()) {
      for (Message& in : incoming_)
        if (in.peer == m.peer) std::swap(in.data, m.data), std::swap(in.there, m.there);
      continue;
    }
    cost_.bytes += static_cast<std::int64_t>(m.size * sizeof(float));
    ++cost_.messages;
    if (m.staged.data())
      accelerator::start_to_host(m.staged.data(), m.there.data(), m.size * sizeof(float));
    else if (!link_)
      post(m, false);
  }
  if (std::ranges::any_of(outgoing_, [](const Message& m) { return m.staged.data() != nullptr; })) {
    accelerator::wait();
    for (Message& m : outgoing_)
      if (m.staged.data()) post(m, false);
  }
}

/// Returns what lies behind the piece in the message.
float* HaloExchange::pack(const HaloPlan::Piece& piece, Tensor& tensor, float* message) const {
  if (on_gpu_) {
    kernels::pack(std::as_const(tensor).view(), piece.frames_of(tensor.shape().t), piece.cells, message);
    return message + values_in(piece, tensor);
  }
  return for_each_row(tensor, piece, message, [](const float* cells, float* to, Index n) {
    std::memcpy(to, cells, static_cast<std::size_t>(n) * sizeof(float));
  });
}

const float* HaloExchange::unpack(const HaloPlan::Piece& piece, const float* message, Tensor& tensor) const {
  if (on_gpu_) {
    kernels::unpack(message, piece.frames_of(tensor.shape().t), piece.cells, tensor.view());
    return message + values_in(piece, tensor);
  }
  return for_each_row(tensor, piece, message, [](float* cells, const float* from, Index n) {
    std::memcpy(cells, from, static_cast<std::size_t>(n) * sizeof(float));
  });
}

void HaloExchange::post(Message& m, bool receive) {
  constexpr int tag = 11;
  if (receive)
    start_receive(comm_, m.here(), m.peer, tag, requests_);
  else
    start_send(comm_, m.here(), m.peer, tag, requests_);
}

HaloExchange::~HaloExchange() {
  if (finished_) return;
  if (link_) {
    try {
      link_->finish(); // messages must not lose their memory under way
    } catch (...) {    // the failure that is on its way says more
    }
  }
  MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
}

void HaloExchange::finish() {
  {
    const Stopwatch waiting(cost_.wait_seconds);
    wait_for(requests_);
    if (link_) link_->finish();
  }
  finished_ = true;
  const Stopwatch unpacking(cost_.pack_seconds);
  std::size_t piece = 0;
  for (Message& m : incoming_) {
    if (m.staged.data())
      accelerator::start_to_accelerator(m.there.data(), m.staged.data(), m.size * sizeof(float));
    const float* in = on_gpu_ ? m.there.data() : m.data.get();
    for (; piece < plan_.receives.size() && plan_.receives[piece].peer == m.peer; ++piece)
      for (Tensor* t : tensors_) in = unpack(plan_.receives[piece], in, *t);
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
