#pragma once
#include "pluvia/core/launch.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia::kernels {

// How kernels go through the cells of a tensor. Functions are copied to the accelerator.

struct Division {
  Index quotient, rest;
};
/// GPUs divide 32-bit numbers many times faster.
PLUVIA_ANYWHERE inline Division divide(Index n, Index by) {
  if (((n | by) >> 32) == 0) {
    const auto small = static_cast<std::uint32_t>(n), d = static_cast<std::uint32_t>(by);
    return {small / d, small % d};
  }
  return {n / by, n % by};
}

/// Where the i-th cell of a shape lies.
struct CellAt {
  Index b, t, y, x;
};
PLUVIA_ANYWHERE inline CellAt cell_at(const Shape& s, Index i) {
  const Division x = divide(i, s.x), y = divide(x.quotient, s.y), t = divide(y.quotient, s.t);
  return {t.quotient, t.rest, y.rest, x.rest};
}

/// Calls f(cell, k) for k in [0, n) of every cell, neighbouring k side by side.
template <class F> struct PerCell {
  Shape shape;
  Index n;
  F f;
  PLUVIA_ANYWHERE void operator()(Index i) const {
    const Division d = divide(i, n);
    f(cell_at(shape, d.quotient), d.rest);
  }
};
template <class F> void for_cells(const Shape& shape, Index n, F f) {
  launch(shape.cells() * n, PerCell<F>{shape, n, f});
}

} // namespace pluvia::kernels
