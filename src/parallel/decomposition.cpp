#include "pluvia/parallel/decomposition.hpp"

#include <cassert>

namespace pluvia {

namespace {

/// The keys that a tile's queries see, or the queries that see its keys.
std::function<Rect(const Rect&)> cells_of(const AttentionWindow& window,
                                          Span (AxisWindow::*span)(Index) const) {
  return [window, span](const Rect& r) {
    return Rect{(window.y.*span)(r.y0).from, (window.y.*span)(r.y1 - 1).to, (window.x.*span)(r.x0).from,
                (window.x.*span)(r.x1 - 1).to};
  };
}

} // namespace

HaloPlan plan_stencil_halo(const Partition& partition, int level, int rank, const Stencil& stencil) {
  const Margin m = reach(stencil);
  TimeNeed time;
  if (m.t_lo > 0 || m.t_hi > 0) {
    const auto frames = [axis = partition.time](int part) { return axis.frames_of(part); };
    time = {frames, [frames, m](int part) {
              return Span{frames(part).from - m.t_lo, frames(part).to + m.t_hi};
            }};
  }
  return plan_halo(
      partition, level, rank,
      [m](const Rect& r) {
        return Rect{r.y0 - m.y_lo, r.y1 + m.y_hi, r.x0 - m.x_lo, r.x1 + m.x_hi};
      },
      time);
}

HaloPlan plan_key_halo(const Partition& partition, int level, int rank, const AttentionWindow& window) {
  const TimeAxis& axis = partition.time;
  TimeNeed time;
  if (window.t.kind != AxisWindow::Kind::own)
    time = {[axis](int part) { return axis.frames_of(part); },
            [axis, kind = window.t.kind](int part) {
              return Span{0, kind == AxisWindow::Kind::all ? axis.frames() : axis.frames_of(part).to};
            }};
  return plan_halo(partition, level, rank, cells_of(window, &AxisWindow::keys), time);
}

HaloPlan plan_query_halo(const Partition& partition, int level, int rank, const AttentionWindow& window) {
  const TimeAxis& axis = partition.time;
  TimeNeed time;
  if (window.t.kind == AxisWindow::Kind::all)
    time = {[axis](int part) { return axis.leads_of(part); }, [axis](int) { return Span{0, axis.leads()}; }};
  else if (window.t.kind == AxisWindow::Kind::past)
    time = {[axis](int part) { return axis.frames_of(part); },
            [axis](int part) {
              return Span{axis.frames_of(part).from, axis.frames()};
            }};
  return plan_halo(partition, level, rank, cells_of(window, &AxisWindow::queries), time);
}

bool stays_home(const TimeAxis& time, const AttentionWindow& window) {
  constexpr auto own = AxisWindow::Kind::own;
  return window.y.kind == own && window.x.kind == own && (time.parts() == 1 || window.t.kind == own);
}

AxisWindow around_y(const Tiling& tiling, int level, Index radius) {
  const Index extent = tiling.domain(level).height();
  if (radius == 0) return {AxisWindow::Kind::own, 0, extent};
  return {AxisWindow::Kind::around, radius, extent};
}

AxisWindow around_x(const Tiling& tiling, int level, Index radius) {
  const Index extent = tiling.domain(level).width();
  if (radius == 0) return {AxisWindow::Kind::own, 0, extent};
  const bool closes = tiling.x_edge() == Edge::periodic;
  return {closes ? AxisWindow::Kind::wrapped : AxisWindow::Kind::around, radius, extent};
}

AxisWindow block_y(const Tiling& tiling, int level, Index size) {
  return {AxisWindow::Kind::block, size, tiling.domain(level).height()};
}

AxisWindow block_x(const Tiling& tiling, int level, Index size) {
  return {AxisWindow::Kind::block, size, tiling.domain(level).width()};
}

AxisWindow every_row(const Tiling& tiling, int level) {
  return {AxisWindow::Kind::all, 0, tiling.domain(level).height()};
}

AxisWindow every_column(const Tiling& tiling, int level) {
  return {AxisWindow::Kind::all, 0, tiling.domain(level).width()};
}

Decomposition::Decomposition(const Communicator& comm, Partition partition, const Communicator* channels)
    : comm_(comm), partition_(std::move(partition)),
      space_(comm.split(partition_.part(comm.rank()), comm.rank())),
      time_(comm.split(comm.rank() / partition_.time.parts(), comm.rank())), channels_(channels) {
  assert(comm.size() == partition_.ranks());
}

std::string Decomposition::link_accelerators() {
  if (comm_.size() == 1) return "all tiles are on one accelerator";
  if (!DeviceLink::possible(comm_))
    return "halos travel through the hosts' memory: ranks share an accelerator";
  link_ = std::make_unique<DeviceLink>(comm_);
  return "halos travel from accelerator to accelerator";
}

template <class Make> const HaloPlan& Decomposition::cached(const Key& key, Make&& make) {
  auto found = plans_.find(key);
  if (found == plans_.end()) found = plans_.emplace(key, make()).first;
  return found->second;
}

const HaloPlan& Decomposition::stencil_halo(int level, const Stencil& stencil) {
  const Margin m = reach(stencil);
  return cached({0, level, m.t_lo, m.t_hi, m.y_lo, m.y_hi, m.x_lo, m.x_hi},
                [&] { return plan_stencil_halo(partition_, level, comm_.rank(), stencil); });
}

const HaloPlan& Decomposition::key_halo(int level, const AttentionWindow& w) {
  return cached({1, level, static_cast<int>(w.t.kind), static_cast<int>(w.y.kind), w.y.size,
                 static_cast<int>(w.x.kind), w.x.size, 0},
                [&] { return plan_key_halo(partition_, level, comm_.rank(), w); });
}

const HaloPlan& Decomposition::query_halo(int level, const AttentionWindow& w) {
  return cached({2, level, static_cast<int>(w.t.kind), static_cast<int>(w.y.kind), w.y.size,
                 static_cast<int>(w.x.kind), w.x.size, 0},
                [&] { return plan_query_halo(partition_, level, comm_.rank(), w); });
}

} // namespace pluvia
