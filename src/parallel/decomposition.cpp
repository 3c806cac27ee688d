#include "pluvia/parallel/decomposition.hpp"

#include <cassert>

namespace pluvia {

Decomposition::Decomposition(const Communicator& comm, Tiling tiling)
    : comm_(comm), tiling_(std::move(tiling)) {
  assert(comm.size() == tiling_.ranks());
}

template <class Needed> const HaloPlan& Decomposition::cached(const Key& key, int level, Needed&& needed) {
  auto found = plans_.find(key);
  if (found == plans_.end())
    found = plans_.emplace(key, plan_halo(tiling_, level, comm_.rank(), needed)).first;
  return found->second;
}

const HaloPlan& Decomposition::stencil_halo(int level, const Stencil& stencil) {
  const Margin m = reach(stencil);
  return cached({0, level, m.y_lo, m.y_hi, m.x_lo, m.x_hi}, level, [m](const Rect& r) {
    return Rect{r.y0 - m.y_lo, r.y1 + m.y_hi, r.x0 - m.x_lo, r.x1 + m.x_hi};
  });
}

const HaloPlan& Decomposition::key_halo(int level, const AxisWindow& y, const AxisWindow& x) {
  return cached({1, level, static_cast<int>(y.kind), y.size, static_cast<int>(x.kind), x.size}, level,
                [y, x](const Rect& r) {
                  return Rect{y.keys(r.y0).from, y.keys(r.y1 - 1).to, x.keys(r.x0).from, x.keys(r.x1 - 1).to};
                });
}

const HaloPlan& Decomposition::query_halo(int level, const AxisWindow& y, const AxisWindow& x) {
  return cached({2, level, static_cast<int>(y.kind), y.size, static_cast<int>(x.kind), x.size}, level,
                [y, x](const Rect& r) {
                  return Rect{y.queries(r.y0).from, y.queries(r.y1 - 1).to, x.queries(r.x0).from,
                              x.queries(r.x1 - 1).to};
                });
}

AxisWindow Decomposition::around_y(int level, Index radius) const {
  if (radius == 0) return {AxisWindow::Kind::own, 0, domain(level).height()};
  return {AxisWindow::Kind::around, radius, domain(level).height()};
}

AxisWindow Decomposition::around_x(int level, Index radius) const {
  if (radius == 0) return {AxisWindow::Kind::own, 0, domain(level).width()};
  const bool closes = tiling_.x_edge() == Edge::periodic;
  return {closes ? AxisWindow::Kind::wrapped : AxisWindow::Kind::around, radius, domain(level).width()};
}

AxisWindow Decomposition::block_y(int level, Index size) const {
  return {AxisWindow::Kind::block, size, domain(level).height()};
}

AxisWindow Decomposition::block_x(int level, Index size) const {
  return {AxisWindow::Kind::block, size, domain(level).width()};
}

} // namespace pluvia
