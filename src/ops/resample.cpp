#include "pluvia/ops/resample.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

std::size_t bytes(Index values) {
  return static_cast<std::size_t>(values) * sizeof(float);
}

void gather(const Tensor& fine, Tensor& coarse) {
  if (fine.device() == Device::gpu) return kernels::merge(fine.view(), coarse.view());
  const Shape &f = fine.shape(), &s = coarse.shape();
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    for (Index x = 0; x < s.x; ++x)
      for (Index dy = 0; dy < 2; ++dy) {
        float* out = coarse.cell(b, t, y, x) + dy * 2 * f.c;
        const Index inside = 2 * y + dy < f.y ? std::min<Index>(2, f.x - 2 * x) : 0;
        if (inside > 0) std::memcpy(out, fine.cell(b, t, 2 * y + dy, 2 * x), bytes(inside * f.c));
        std::memset(out + inside * f.c, 0, bytes((2 - inside) * f.c));
      }
  });
}

void scatter(const Tensor& coarse, const Tensor* addend, Tensor& fine) {
  if (coarse.device() == Device::gpu)
    return kernels::unmerge(coarse.view(), addend ? addend->view() : ConstView{}, fine.view());
  const Shape& f = fine.shape();
  parallel_for(f.b * f.t * f.y, [&](Index row) {
    const Index y = row % f.y, t = row / f.y % f.t, b = row / f.y / f.t;
    float* out = fine.cell(b, t, y, 0);
    for (Index x = 0; x < f.x; x += 2)
      std::memcpy(out + x * f.c, coarse.cell(b, t, y / 2, x / 2) + (y % 2) * 2 * f.c,
                  bytes(std::min<Index>(2, f.x - x) * f.c));
    if (!addend) return;
    const float* more = addend->cell(b, t, y, 0);
    for (Index i = 0; i < f.x * f.c; ++i) out[i] += more[i];
  });
}

} // namespace

Var merge(Tape& tape, const Var& x) {
  const Shape f = x->value.shape();
  const Shape s{f.b, f.t, (f.y + 1) / 2, (f.x + 1) / 2, 4 * f.c};
  Tensor y(s, {}, x->value.device());
  gather(x->value, y);
  return tape.record(std::move(y), {"merge", f.c}, [x, f](Node& node) {
    if (!x->needs_grad) return;
    Tensor dx(f, x->grad_margin, x->value.device());
    scatter(node.grad, nullptr, dx);
    accumulate(*x, std::move(dx));
  });
}

Var unmerge(Tape& tape, const Var& x, Index height, Index width, const Var& addend) {
  const Shape s = x->value.shape();
  assert(s.y == (height + 1) / 2 && s.x == (width + 1) / 2);
  Tensor y({s.b, s.t, height, width, s.c / 4}, {}, x->value.device());
  scatter(x->value, addend ? &addend->value : nullptr, y);
  return tape.record(std::move(y), {"unmerge", s.c}, [x, s, addend](Node& node) {
    Tensor dx(s, x->grad_margin, x->value.device());
    gather(node.grad, dx);
    accumulate(*x, std::move(dx));
    if (addend) pass_gradient(node, *addend);
  });
}

void copy_cells(const Tensor& from, Corner at, Tensor& to, Corner there, Index height, Index width) {
  const Shape& s = from.shape();
  if (from.device() == Device::gpu) {
    ConstView source = from.view();
    View target = to.view();
    source.origin = from.cell(0, 0, at.y, at.x), target.origin = to.cell(0, 0, there.y, there.x);
    return kernels::copy_cells(source, target, height, width);
  }
  parallel_for(s.b * s.t * height, [&](Index i) {
    const Index b = i / height / s.t, t = i / height % s.t, y = i % height;
    std::memcpy(to.cell(b, t, there.y + y, there.x), from.cell(b, t, at.y + y, at.x), bytes(width * s.c));
  });
}

} // namespace pluvia
