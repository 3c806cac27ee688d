#include "pluvia/ops/norm.hpp"

#include <algorithm>
#include <cassert>
#include <vector>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"

namespace pluvia {

namespace {

using simd::Vec16;

constexpr Index lanes = 16;
constexpr float epsilon = 1e-5F;

struct Moments {
  float mean, inverse_deviation;
};

inline Moments moments(const float* x, Index channels) {
  Vec16 total = Vec16::zero(), squares = Vec16::zero();
  for (Index c = 0; c < channels; c += lanes) total = total + Vec16::load(x + c);
  const float mean = sum(total) / static_cast<float>(channels);
  const Vec16 minus_mean = Vec16::broadcast(-mean);
  for (Index c = 0; c < channels; c += lanes) {
    const Vec16 d = Vec16::load(x + c) + minus_mean;
    squares = fma(d, d, squares);
  }
  return {mean, 1.0F / std::sqrt(sum(squares) / static_cast<float>(channels) + epsilon)};
}

} // namespace

Var layer_norm(Tape& tape, const Var& x, Parameter& gain, Parameter& bias, Activation activation,
               Margin out_margin) {
  const Shape s = x->value.shape();
  assert(s.c % lanes == 0);
  Tensor y(s, out_margin);
  const float *g = gain.value.cell(0, 0, 0, 0), *o = bias.value.cell(0, 0, 0, 0);
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index iy = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const float* in = x->value.cell(b, t, iy, 0);
    float* out = y.cell(b, t, iy, 0);
    for (Index i = 0; i < s.x; ++i, in += s.c, out += s.c) {
      const Moments m = moments(in, s.c);
      for (Index c = 0; c < s.c; ++c) out[c] = std::fma((in[c] - m.mean) * m.inverse_deviation, g[c], o[c]);
      if (activation == Activation::gelu)
        for (Index c = 0; c < s.c; ++c) out[c] = gelu(out[c]);
    }
  });

  return tape.record(std::move(y), {"layer_norm", s.c}, [x, &gain, &bias, activation, s](Node& node) {
    const float *gv = gain.value.cell(0, 0, 0, 0), *ov = bias.value.cell(0, 0, 0, 0);
    Tensor dx(s, x->grad_margin);
    const Index rows = s.b * s.t * s.y;
    // Partial sums per row, added in row order afterwards: the same for every thread count.
    std::vector<float> partial(static_cast<std::size_t>(rows * 2 * s.c), 0.0F);
    parallel_for(rows, [&](Index row) {
      const Index iy = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
      const float* in = x->value.cell(b, t, iy, 0);
      const float* dy = node.grad.cell(b, t, iy, 0);
      float* out = dx.cell(b, t, iy, 0);
      float *dg = partial.data() + row * 2 * s.c, *db = dg + s.c;
      std::vector<float> scratch(static_cast<std::size_t>(2 * s.c));
      float *normed = scratch.data(), *upstream = normed + s.c;
      for (Index i = 0; i < s.x; ++i, in += s.c, dy += s.c, out += s.c) {
        const Moments m = moments(in, s.c);
        for (Index c = 0; c < s.c; ++c) normed[c] = (in[c] - m.mean) * m.inverse_deviation;
        if (activation == Activation::gelu)
          for (Index c = 0; c < s.c; ++c) upstream[c] = dy[c] * gelu_slope(std::fma(normed[c], gv[c], ov[c]));
        else
          std::copy_n(dy, s.c, upstream);
        Vec16 a = Vec16::zero(), e = Vec16::zero();
        for (Index c = 0; c < s.c; c += lanes) {
          const Vec16 u = Vec16::load(upstream + c), n = Vec16::load(normed + c),
                      ug = u * Vec16::load(gv + c);
          (Vec16::load(db + c) + u).store(db + c);
          fma(u, n, Vec16::load(dg + c)).store(dg + c);
          a = a + ug;
          e = fma(ug, n, e);
        }
        const float mean_a = sum(a) / static_cast<float>(s.c), mean_e = sum(e) / static_cast<float>(s.c);
        for (Index c = 0; c < s.c; ++c)
          out[c] = m.inverse_deviation * (std::fma(upstream[c], gv[c], -mean_a) - normed[c] * mean_e);
      }
    });
    float *dgain = gain.grad.cell(0, 0, 0, 0), *dbias = bias.grad.cell(0, 0, 0, 0);
    for (Index row = 0; row < rows; ++row)
      for (Index c = 0; c < s.c; ++c) {
        dgain[c] += partial[static_cast<std::size_t>(row * 2 * s.c + c)];
        dbias[c] += partial[static_cast<std::size_t>(row * 2 * s.c + s.c + c)];
      }
    accumulate(*x, std::move(dx));
  });
}

} // namespace pluvia
