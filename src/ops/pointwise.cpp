#include "pluvia/ops/pointwise.hpp"

#include <cassert>

#include "channel_scale.hpp"
#include "kernels.hpp"
#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

bool on_gpu(const Tensor& t) {
  return t.device() == Device::gpu;
}

/// Calls f(b, t, y) for every row of cells.
template <class F> void for_rows(const Shape& s, F&& f) {
  parallel_for(s.b * s.t * s.y, [&](Index row) { f(row / s.y / s.t, row / s.y % s.t, row % s.y); });
}

void gelu_of(const Tensor& x, Tensor& y) {
  if (on_gpu(x)) return kernels::gelu(x.view(), y.view());
  for_rows(x.shape(), [&](Index b, Index t, Index iy) {
    const float* in = x.cell(b, t, iy, 0);
    float* out = y.cell(b, t, iy, 0);
    for (Index i = 0; i < x.shape().x * x.shape().c; ++i) out[i] = gelu(in[i]);
  });
}

void gelu_gradient(const Tensor& x, const Tensor& dy, Tensor& dx) {
  if (on_gpu(x)) return kernels::gelu_gradient(x.view(), dy.view(), dx.view());
  for_rows(x.shape(), [&](Index b, Index t, Index iy) {
    const float *in = x.cell(b, t, iy, 0), *d = dy.cell(b, t, iy, 0);
    float* out = dx.cell(b, t, iy, 0);
    for (Index i = 0; i < x.shape().x * x.shape().c; ++i) out[i] = d[i] * gelu_slope(in[i]);
  });
}

void scale_channels(const Tensor& x, const Tensor& scale, Tensor& y) {
  const float* const factor = scale.cell(0, 0, 0, 0);
  if (on_gpu(x)) return kernels::scale_channels(x.view(), factor, y.view());
  const Shape& s = x.shape();
  for_rows(s, [&](Index b, Index t, Index iy) {
    const float* in = x.cell(b, t, iy, 0);
    float* out = y.cell(b, t, iy, 0);
    for (Index ix = 0; ix < s.x; ++ix)
      for (Index c = 0; c < s.c; ++c) out[ix * s.c + c] = in[ix * s.c + c] * factor[c];
  });
}

void blend_of(const Tensor& g, const Tensor& a, const Tensor& b, Tensor& y) {
  if (on_gpu(g)) return kernels::blend(g.view(), a.view(), b.view(), y.view());
  for_rows(g.shape(), [&](Index ib, Index t, Index iy) {
    const float *gv = g.cell(ib, t, iy, 0), *av = a.cell(ib, t, iy, 0), *bv = b.cell(ib, t, iy, 0);
    float* out = y.cell(ib, t, iy, 0);
    for (Index i = 0; i < g.shape().x * g.shape().c; ++i)
      out[i] = std::fma(sigmoid(gv[i]), av[i] - bv[i], bv[i]);
  });
}

void blend_gradients(const Tensor& g, const Tensor& a, const Tensor& b, const Tensor& dy, Tensor& dg,
                     Tensor& da, Tensor& db) {
  if (on_gpu(g))
    return kernels::blend_gradients(g.view(), a.view(), b.view(), dy.view(), dg.view(), da.view(), db.view());
  for_rows(g.shape(), [&](Index ib, Index t, Index iy) {
    const float *gv = g.cell(ib, t, iy, 0), *av = a.cell(ib, t, iy, 0), *bv = b.cell(ib, t, iy, 0),
                *d = dy.cell(ib, t, iy, 0);
    float *og = dg.cell(ib, t, iy, 0), *oa = da.cell(ib, t, iy, 0), *ob = db.cell(ib, t, iy, 0);
    for (Index i = 0; i < g.shape().x * g.shape().c; ++i) {
      const float share = sigmoid(gv[i]);
      oa[i] = d[i] * share;
      ob[i] = d[i] - oa[i];
      og[i] = d[i] * (av[i] - bv[i]) * share * (1.0F - share);
    }
  });
}

} // namespace

Var gelu(Tape& tape, const Var& x, Margin out_margin) {
  const Shape s = x->value.shape();
  Tensor y(s, out_margin, x->value.device());
  gelu_of(x->value, y);
  return tape.record(std::move(y), {"gelu", s.c}, [x, s](Node& node) {
    Tensor dx(s, x->grad_margin, x->value.device());
    gelu_gradient(x->value, node.grad, dx);
    accumulate(*x, std::move(dx));
  });
}

Var drop_channels(Tape& tape, const Var& x, const Dropout& dropout, std::uint64_t layer) {
  if (dropout.rate == 0) return x;
  const Shape s = x->value.shape();
  const auto drawn = std::make_shared<Tensor>(Shape{1, 1, 1, 1, s.c}, Margin{}, x->value.device());
  Tensor& scale = *drawn;
  if (on_gpu(scale))
    kernels::draw_channels(dropout, layer, scale.view());
  else
    for (Index c = 0; c < s.c; ++c)
      scale.cell(0, 0, 0, 0)[c] = channel_scale(dropout, layer, dropout.sample, c);
  Tensor y(s, {}, x->value.device());
  scale_channels(x->value, scale, y);
  return tape.record(std::move(y), {"drop channels", s.c}, [x, s, drawn](Node& node) {
    Tensor dx(s, x->grad_margin, x->value.device());
    scale_channels(node.grad, *drawn, dx);
    accumulate(*x, std::move(dx));
  });
}

Var blend(Tape& tape, const Var& g, const Var& a, const Var& b) {
  const Shape s = g->value.shape();
  assert(a->value.shape() == s && b->value.shape() == s);
  Tensor y(s, {}, g->value.device());
  blend_of(g->value, a->value, b->value, y);
  return tape.record(std::move(y), {"blend", s.c}, [g, a, b, s](Node& node) {
    const Device device = g->value.device();
    Tensor dg(s, g->grad_margin, device), da(s, a->grad_margin, device), db(s, b->grad_margin, device);
    blend_gradients(g->value, a->value, b->value, node.grad, dg, da, db);
    accumulate(*g, std::move(dg));
    accumulate(*a, std::move(da));
    accumulate(*b, std::move(db));
  });
}

} // namespace pluvia
