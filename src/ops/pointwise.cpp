#include "pluvia/ops/pointwise.hpp"

#include <cassert>
#include <vector>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/random.hpp"

namespace pluvia {

namespace {

/// Calls f(b, t, y) for every row of cells.
template <class F> void for_rows(const Shape& s, F&& f) {
  parallel_for(s.b * s.t * s.y, [&](Index row) { f(row / s.y / s.t, row / s.y % s.t, row % s.y); });
}

} // namespace

Var gelu(Tape& tape, const Var& x, Margin out_margin) {
  const Shape s = x->value.shape();
  Tensor y(s, out_margin);
  for_rows(s, [&](Index b, Index t, Index iy) {
    const float* in = x->value.cell(b, t, iy, 0);
    float* out = y.cell(b, t, iy, 0);
    for (Index i = 0; i < s.x * s.c; ++i) out[i] = gelu(in[i]);
  });
  return tape.record(std::move(y), {"gelu", s.c}, [x, s](Node& node) {
    Tensor dx(s, x->grad_margin);
    for_rows(s, [&](Index b, Index t, Index iy) {
      const float *in = x->value.cell(b, t, iy, 0), *dy = node.grad.cell(b, t, iy, 0);
      float* out = dx.cell(b, t, iy, 0);
      for (Index i = 0; i < s.x * s.c; ++i) out[i] = dy[i] * gelu_slope(in[i]);
    });
    accumulate(*x, std::move(dx));
  });
}

Var drop_channels(Tape& tape, const Var& x, const Dropout& dropout, std::uint64_t layer) {
  if (dropout.rate == 0) return x;
  const Shape s = x->value.shape();
  std::vector<float> scale;
  for (Index c = 0; c < s.c; ++c)
    scale.push_back(random_uniform(dropout.seed, RandomPurpose::dropout,
                                   layer << 32 | static_cast<std::uint64_t>(c), dropout.sample) < dropout.rate
                        ? 0.0F
                        : static_cast<float>(1 / (1 - dropout.rate)));
  const auto scaled = [s, scale](const Tensor& from, Tensor& to) {
    for_rows(s, [&](Index b, Index t, Index iy) {
      const float* in = from.cell(b, t, iy, 0);
      float* out = to.cell(b, t, iy, 0);
      for (Index ix = 0; ix < s.x; ++ix)
        for (Index c = 0; c < s.c; ++c)
          out[ix * s.c + c] = in[ix * s.c + c] * scale[static_cast<std::size_t>(c)];
    });
  };
  Tensor y(s);
  scaled(x->value, y);
  return tape.record(std::move(y), {"drop channels", s.c}, [x, s, scaled](Node& node) {
    Tensor dx(s, x->grad_margin);
    scaled(node.grad, dx);
    accumulate(*x, std::move(dx));
  });
}

Var blend(Tape& tape, const Var& g, const Var& a, const Var& b) {
  const Shape s = g->value.shape();
  assert(a->value.shape() == s && b->value.shape() == s);
  Tensor y(s);
  for_rows(s, [&](Index ib, Index t, Index iy) {
    const float *gv = g->value.cell(ib, t, iy, 0), *av = a->value.cell(ib, t, iy, 0);
    const float* bv = b->value.cell(ib, t, iy, 0);
    float* out = y.cell(ib, t, iy, 0);
    for (Index i = 0; i < s.x * s.c; ++i) out[i] = std::fma(sigmoid(gv[i]), av[i] - bv[i], bv[i]);
  });
  return tape.record(std::move(y), {"blend", s.c}, [g, a, b, s](Node& node) {
    Tensor dg(s, g->grad_margin), da(s, a->grad_margin), db(s, b->grad_margin);
    for_rows(s, [&](Index ib, Index t, Index iy) {
      const float *gv = g->value.cell(ib, t, iy, 0), *av = a->value.cell(ib, t, iy, 0);
      const float *bv = b->value.cell(ib, t, iy, 0), *dy = node.grad.cell(ib, t, iy, 0);
      float *og = dg.cell(ib, t, iy, 0), *oa = da.cell(ib, t, iy, 0), *ob = db.cell(ib, t, iy, 0);
      for (Index i = 0; i < s.x * s.c; ++i) {
        const float share = sigmoid(gv[i]);
        oa[i] = dy[i] * share;
        ob[i] = dy[i] - oa[i];
        og[i] = dy[i] * (av[i] - bv[i]) * share * (1.0F - share);
      }
    });
    accumulate(*g, std::move(dg));
    accumulate(*a, std::move(da));
    accumulate(*b, std::move(db));
  });
}

} // namespace pluvia
