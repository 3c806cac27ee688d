#include <cmath>

#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"
#include "pluvia/core/math.hpp"
#include "pluvia/core/order_free_sums.hpp"
#include "sixteen.hpp"

namespace pluvia::kernels {

namespace {

constexpr int n = head_channels;
constexpr int head_sums = (n + 1) * n;
constexpr float epsilon = 1e-6F;

using Head = Sixteen;
static_assert(n == 16);
PLUVIA_ANYWHERE Head feature(const float* u) {
  Head f = load(u);
  for (int i = 0; i < n; ++i) f.v[i] = f.v[i] > 0 ? f.v[i] + 1.0F : exp_f32(f.v[i]);
  return f;
}
PLUVIA_ANYWHERE float slope(float u, float feature) {
  return u > 0 ? 1.0F : feature;
}

PLUVIA_ANYWHERE float inner(const Head& a, const float* b) {
  Head terms = load(b);
  for (int i = 0; i < n; ++i) terms.v[i] *= a.v[i];
  return tree_sum(terms);
}

/// One of the sums of a sample, frame and head: of row i and column j of S, or of z where i is n. The terms
/// of each coarsest cell are added up before they go to the order-free sum. f(cell, i, j, sum so far).
template <class F> struct SumOverCells {
  Shape s;
  Index side;
  std::int64_t* limbs;
  F f;
  PLUVIA_ANYWHERE void operator()(Index index) const {
    const Index heads = s.c / n, size = s.b * s.t * heads * head_sums;
    const Division of_task = divide(index, head_sums), of_frame = divide(of_task.quotient, heads),
                   of_sample = divide(of_frame.quotient, s.t);
    const Index i = of_task.rest / n, j = of_task.rest % n;
    std::int64_t upper = 0, lower = 0, bad = 0;
    for (Index y = 0; y < s.y; y += side)
      for (Index x = 0; x < s.x; x += side) {
        float sum = 0;
        for (Index iy = y; iy < y + side && iy < s.y; ++iy)
          for (Index ix = x; ix < x + side && ix < s.x; ++ix)
            sum = f(CellAt{of_sample.quotient, of_sample.rest, iy, ix}, of_frame.rest, i, j, sum);
        add_order_free(sum, upper, lower, bad);
      }
    limbs[index] = upper;
    limbs[size + index] = lower;
    // How many terms were out of range is kept by each sum for itself; the host adds these up.
    limbs[2 * size + index] = bad;
  }
};
template <class F> void sum_over_cells(const Shape& s, Index side, std::int64_t* limbs, F f) {
  launch(s.b * s.t * (s.c / n) * head_sums, SumOverCells<F>{s, side, limbs, f});
}

} // namespace

void add_keys(const ConstView& k, const ConstView& v, Index side, std::int64_t* limbs) {
  sum_over_cells(k.shape, side, limbs,
                 [=] PLUVIA_ANYWHERE(const CellAt& at, Index head, Index i, Index j, float sum) {
                   const float* key = k.cell(at.b, at.t, at.y, at.x) + head * n;
                   const Index of = i < n ? i : j;
                   const float f = key[of] > 0 ? key[of] + 1.0F : exp_f32(key[of]);
                   return i < n ? std::fma(f, v.cell(at.b, at.t, at.y, at.x)[head * n + j], sum) : sum + f;
                 });
}

void attend_domain(const ConstView& q, const ConstView& sums, float factor, const View& o) {
  for_cells(o.shape, o.shape.c / n, [=] PLUVIA_ANYWHERE(const CellAt& at, Index h) {
    const float* rows = sums.cell(at.b, at.t, 0, h);
    const Head f = feature(q.cell(at.b, at.t, at.y, at.x) + h * n);
    const float inverse = 1.0F / (inner(f, rows + n * n) + epsilon * factor);
    float* to = o.cell(at.b, at.t, at.y, at.x) + h * n;
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int i = 0; i < n; ++i) sum = std::fma(f.v[i], rows[i * n + j], sum);
      to[j] = sum * inverse;
    }
  });
}

void pull_domain_queries(const ConstView& q, const ConstView& o, const ConstView& d_o, const ConstView& sums,
                         float factor, Index side, const View& dq, std::int64_t* limbs) {
  // With g = do / (phi(q) . z) and d = -g . o: dS = phi(q)' g, dz = d phi(q), dphi(q) = g S' + d z.
  Shape per_head = q.shape;
  per_head.c /= n;
  Tensor scaled(q.shape, {}, Device::gpu), slopes(per_head, {}, Device::gpu);
  const View gs = scaled.view(), ds = slopes.view();
  for_cells(q.shape, q.shape.c / n, [=] PLUVIA_ANYWHERE(const CellAt& at, Index h) {
    const float* rows = sums.cell(at.b, at.t, 0, h);
    const float* u = q.cell(at.b, at.t, at.y, at.x) + h * n;
    const Head f = feature(u);
    const float inverse = 1.0F / (inner(f, rows + n * n) + epsilon * factor);
    Head g;
    for (int j = 0; j < n; ++j) g.v[j] = d_o.cell(at.b, at.t, at.y, at.x)[h * n + j] * inverse;
    const float d = -inner(g, o.cell(at.b, at.t, at.y, at.x) + h * n);
    float* to = dq.cell(at.b, at.t, at.y, at.x) + h * n;
    for (int i = 0; i < n; ++i) {
      float sum = d * rows[n * n + i];
      for (int j = 0; j < n; ++j) sum = std::fma(g.v[j], rows[i * n + j], sum);
      to[i] = sum * slope(u[i], f.v[i]);
      gs.cell(at.b, at.t, at.y, at.x)[h * n + i] = g.v[i];
    }
    ds.cell(at.b, at.t, at.y, at.x)[h] = d;
  });
  sum_over_cells(q.shape, side, limbs,
                 [=] PLUVIA_ANYWHERE(const CellAt& at, Index head, Index i, Index j, float sum) {
                   const float* u = q.cell(at.b, at.t, at.y, at.x) + head * n;
                   const Index of = i < n ? i : j;
                   const float f = u[of] > 0 ? u[of] + 1.0F : exp_f32(u[of]);
                   return i < n ? std::fma(f, gs.cell(at.b, at.t, at.y, at.x)[head * n + j], sum)
                                : sum + ds.cell(at.b, at.t, at.y, at.x)[head] * f;
                 });
}

void pull_domain_keys(const ConstView& k, const ConstView& v, const ConstView& d_sums, const View& dk,
                      const View& dv) {
  for_cells(k.shape, k.shape.c / n, [=] PLUVIA_ANYWHERE(const CellAt& at, Index h) {
    const float* rows = d_sums.cell(at.b, at.t, 0, h);
    const float *u = k.cell(at.b, at.t, at.y, at.x) + h * n, *value = v.cell(at.b, at.t, at.y, at.x) + h * n;
    const Head f = feature(u);
    float *to_k = dk.cell(at.b, at.t, at.y, at.x) + h * n, *to_v = dv.cell(at.b, at.t, at.y, at.x) + h * n;
    for (int i = 0; i < n; ++i) {
      float of_key = rows[n * n + i], of_value = 0;
      for (int j = 0; j < n; ++j) {
        of_key = std::fma(value[j], rows[i * n + j], of_key);
        of_value = std::fma(f.v[j], rows[j * n + i], of_value);
      }
      to_k[i] = of_key * slope(u[i], f.v[i]);
      to_v[i] = of_value;
    }
  });
}

} // namespace pluvia::kernels
