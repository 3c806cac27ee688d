#include "pluvia/ops/linear_attention.hpp"

#include <algorithm>
#include <cassert>
#include <vector>

#include "kernels.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"

namespace pluvia {

namespace {

// The sixteen channels of a head are one vector, and a cell is worked on after the other.
using simd::Vec16;

constexpr int n = head_channels;
constexpr int head_sums = (n + 1) * n;
constexpr float epsilon = 1e-6F;

struct alignas(64) Head {
  float v[n];
};

Vec16 load(const Head& h) {
  return Vec16::load(h.v);
}

Head feature(const float* u) {
  Head f;
  for (int i = 0; i < n; ++i) f.v[i] = u[i] > 0 ? u[i] + 1.0F : exp_f32(u[i]);
  return f;
}

/// d phi / du, from u and phi(u).
Vec16 slope(const float* u, Head f) {
  for (int i = 0; i < n; ++i) {
    const float value = f.v[i]; // read whether or not it is wanted: compilers make one vector operation of it
    f.v[i] = u[i] > 0 ? 1.0F : value;
  }
  return load(f);
}

/// What a cell adds to S and z, or to their gradients: an outer product, and a vector.
struct Terms {
  Head row, column, z;
};

void add_up(const Terms* terms, Index cells, float* out) {
  Vec16 s[n], z = Vec16::zero();
  for (int i = 0; i < n; ++i) s[i] = Vec16::zero();
  for (Index cell = 0; cell < cells; ++cell) {
    const Terms& t = terms[cell];
    const Vec16 column = load(t.column);
    for (int i = 0; i < n; ++i) s[i] = fma(Vec16::broadcast(t.row.v[i]), column, s[i]);
    z = z + load(t.z);
  }
  for (int i = 0; i < n; ++i) s[i].store(out + i * n);
  z.store(out + n * n);
}

/// start + a M for the rows of a 16 x 16 matrix M.
Vec16 product(const Head& a, const float* rows, Vec16 start = Vec16::zero()) {
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) start = fma(Vec16::broadcast(a.v[i]), Vec16::load(rows + i * n), start);
  return start;
}

struct Turned {
  alignas(64) float v[n * n];
  explicit Turned(const float* rows) {
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) v[j * n + i] = rows[i * n + j];
  }
};

/// Adds up what the function `of(b, t, head)` makes of each cell (y, x) of a tile.
template <class F> void sum_cells(const Shape& s, Index side, OrderFreeSums& sums, F&& of) {
  const Index heads = s.c / n;
  parallel_for(s.b * s.t * heads, [&](Index task) {
    const auto terms_of = of(task / heads / s.t, task / heads % s.t, task % heads);
    std::vector<Terms> terms(static_cast<std::size_t>(side * side));
    float total[head_sums];
    for (Index y = 0; y < s.y; y += side)
      for (Index x = 0; x < s.x; x += side) {
        Index cells = 0;
        for (Index iy = y; iy < std::min(y + side, s.y); ++iy)
          for (Index ix = x; ix < std::min(x + side, s.x); ++ix)
            terms_of(iy, ix, terms[static_cast<std::size_t>(cells++)]);
        add_up(terms.data(), cells, total);
        sums.add(static_cast<std::size_t>(task * head_sums), total);
      }
  });
}

/// Calls f(b, t, y) for every row of cells.
template <class F> void for_rows(const Shape& s, F&& f) {
  parallel_for(s.b * s.t * s.y, [&](Index row) { f(row / s.y / s.t, row / s.y % s.t, row % s.y); });
}

/// Three to each sum.
std::size_t limbs_of(const Shape& s) {
  return static_cast<std::size_t>(3 * domain_sums_shape(s).size());
}

} // namespace

Shape domain_sums_shape(const Shape& s) {
  assert(s.c % n == 0);
  return {s.b, s.t, 1, s.c / n, head_sums};
}

void add_keys(const Tensor& k, const Tensor& v, Index side, OrderFreeSums& sums) {
  if (k.device() == Device::gpu) {
    DeviceArray<std::int64_t> limbs(limbs_of(k.shape()));
    kernels::add_keys(k.view(), v.view(), side, limbs.data());
    return sums.set_limbs(limbs.values());
  }
  sum_cells(k.shape(), side, sums, [&](Index b, Index t, Index head) {
    return [&k, &v, b, t, channel = head * n](Index y, Index x, Terms& out) {
      out.row = out.z = feature(k.cell(b, t, y, x) + channel);
      Vec16::load(v.cell(b, t, y, x) + channel).store(out.column.v);
    };
  });
}

void attend_domain(const Tensor& q, const DomainSums& sums, Tensor& o) {
  if (q.device() == Device::gpu)
    return kernels::attend_domain(q.view(), sums.values.view(), sums.factor, o.view());
  const Shape& s = o.shape();
  for_rows(s, [&](Index b, Index t, Index y) {
    for (Index h = 0; h < s.c / n; ++h) {
      const float* rows = sums.values.cell(b, t, 0, h);
      const Vec16 z = Vec16::load(rows + n * n);
      for (Index x = 0; x < s.x; ++x) {
        const Head f = feature(q.cell(b, t, y, x) + h * n);
        const float inverse = 1.0F / (sum(load(f) * z) + epsilon * sums.factor);
        (product(f, rows) * Vec16::broadcast(inverse)).store(o.cell(b, t, y, x) + h * n);
      }
    }
  });
}

void pull_domain_queries(const Tensor& q, const Tensor& o, const Tensor& d_o, const DomainSums& sums,
                         Index side, Tensor& dq, OrderFreeSums& d_sums) {
  if (q.device() == Device::gpu) {
    DeviceArray<std::int64_t> limbs(limbs_of(q.shape()));
    kernels::pull_domain_queries(q.view(), o.view(), d_o.view(), sums.values.view(), sums.factor, side,
                                 dq.view(), limbs.data());
    return d_sums.set_limbs(limbs.values());
  }
  sum_cells(q.shape(), side, d_sums, [&](Index b, Index t, Index h) {
    const float* rows = sums.values.cell(b, t, 0, h);
    // With g = do / (phi(q) . z) and d = -g . o: dS = phi(q)' g, dz = d phi(q), dphi(q) = g S' + d z.
    return [&q, &o, &d_o, &dq, b, t, channel = h * n, turned = Turned(rows), z = Vec16::load(rows + n * n),
            least = epsilon * sums.factor](Index y, Index x, Terms& out) {
      const float* u = q.cell(b, t, y, x) + channel;
      out.row = feature(u);
      const Vec16 f = load(out.row);
      const Vec16 inverse = Vec16::broadcast(1.0F / (sum(f * z) + least));
      const Vec16 g = Vec16::load(d_o.cell(b, t, y, x) + channel) * inverse;
      const Vec16 d = Vec16::broadcast(-sum(g * Vec16::load(o.cell(b, t, y, x) + channel)));
      g.store(out.column.v);
      (d * f).store(out.z.v);
      (product(out.column, turned.v, d * z) * slope(u, out.row)).store(dq.cell(b, t, y, x) + channel);
    };
  });
}

void pull_domain_keys(const Tensor& k, const Tensor& v, const Tensor& d_sums, Tensor& dk, Tensor& dv) {
  if (k.device() == Device::gpu)
    return kernels::pull_domain_keys(k.view(), v.view(), d_sums.view(), dk.view(), dv.view());
  const Shape& s = k.shape();
  for_rows(s, [&](Index b, Index t, Index y) {
    for (Index h = 0; h < s.c / n; ++h) {
      const float* rows = d_sums.cell(b, t, 0, h);
      const Vec16 dz = Vec16::load(rows + n * n);
      const Turned turned(rows);
      for (Index x = 0; x < s.x; ++x) {
        const float* u = k.cell(b, t, y, x) + h * n;
        const Head f = feature(u);
        Head value;
        Vec16::load(v.cell(b, t, y, x) + h * n).store(value.v);
        (product(value, turned.v, dz) * slope(u, f)).store(dk.cell(b, t, y, x) + h * n);
        product(f, rows).store(dv.cell(b, t, y, x) + h * n);
      }
    }
  });
}

} // namespace pluvia
