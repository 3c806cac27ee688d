#include "pluvia/parallel/decomposition.hpp"

#include <cassert>

namespace pluvia {

HaloPlan plan_stencil_halo(const Tiling& tiling, int level, int rank, const Stencil& stencil) {
  const Margin m = reach(stencil);
  return plan_halo(tiling, level, rank, [m](const Rect& r) {
    return Rect{r.y0 - m.y_lo, r.y1 + m.y_hi, r.x0 - m.x_lo, r.x1 + m.x_hi};
  });
}

HaloPlan plan_key_halo(const Tiling& tiling, int level, int rank, const AxisWindow& y, const AxisWindow& x) {
  return plan_halo(tiling, level, rank, [&](const Rect& r) {
    return Rect{y.keys(r.y0).from, y.keys(r.y1 - 1).to, x.keys(r.x0).from, x.keys(r.x1 - 1).to};
  });
}

HaloPlan plan_query_halo(const Tiling& tiling, int level, int rank, const AxisWindow& y,
                         const AxisWindow& x) {
  return plan_halo(tiling, level, rank, [&](const Rect& r) {
    return Rect{y.queries(r.y0).from, y.queries(r.y1 - 1).to, x.queries(r.x0).from, x.queries(r.x1 - 1).to};
  });
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

Decomposition::Decomposition(const Communicator& comm, Tiling tiling)
    : comm_(comm), tiling_(std::move(tiling)) {
  assert(comm.size() == tiling_.ranks());
}

template <class Make> const HaloPlan& Decomposition::cached(const Key& key, Make&& make) {
  auto found = plans_.find(key);
  if (found == plans_.end()) found = plans_.emplace(key, make()).first;
  return found->second;
}

const HaloPlan& Decomposition::stencil_halo(int level, const Stencil& stencil) {
  const Margin m = reach(stencil);
  return cached({0, level, m.y_lo, m.y_hi, m.x_lo, m.x_hi},
                [&] { return plan_stencil_halo(tiling_, level, comm_.rank(), stencil); });
}

const HaloPlan& Decomposition::key_halo(int level, const AxisWindow& y, const AxisWindow& x) {
  return cached({1, level, static_cast<int>(y.kind), y.size, static_cast<int>(x.kind), x.size},
                [&] { return plan_key_halo(tiling_, level, comm_.rank(), y, x); });
}

const HaloPlan& Decomposition::query_halo(int level, const AxisWindow& y, const AxisWindow& x) {
  return cached({2, level, static_cast<int>(y.kind), y.size, static_cast<int>(x.kind), x.size},
                [&] { return plan_query_halo(tiling_, level, comm_.rank(), y, x); });
}

} // namespace pluvia
