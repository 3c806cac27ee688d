#include "pluvia/ops/norm.hpp"

#include <cassert>
#include <vector>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

constexpr int lanes = 16;
constexpr float epsilon = 1e-5F;

float sum_lanes(float (&a)[lanes]) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}

struct Moments {
  float mean, inverse_deviation;
};

Moments moments(const float* x, Index channels) {
  float a[lanes] = {};
  for (Index c = 0; c < channels; c += lanes)
    for (int i = 0; i < lanes; ++i) a[i] += x[c + i];
  const float mean = sum_lanes(a) / static_cast<float>(channels);
  float b[lanes] = {};
  for (Index c = 0; c < channels; c += lanes)
    for (int i = 0; i < lanes; ++i) {
      const float d = x[c + i] - mean;
      b[i] = std::fma(d, d, b[i]);
    }
  return {mean, 1.0F / std::sqrt(sum_lanes(b) / static_cast<float>(channels) + epsilon)};
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
          for (Index c = 0; c < s.c; ++c) upstream[c] = dy[c];
        float a[lanes] = {}, e[lanes] = {};
        for (Index c = 0; c < s.c; c += lanes)
          for (int l = 0; l < lanes; ++l) {
            const float u = upstream[c + l], n = normed[c + l], ug = u * gv[c + l];
            db[c + l] += u;
            dg[c + l] = std::fma(u, n, dg[c + l]);
            a[l] += ug;
            e[l] = std::fma(ug, n, e[l]);
          }
        const float mean_a = sum_lanes(a) / static_cast<float>(s.c),
                    mean_e = sum_lanes(e) / static_cast<float>(s.c);
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
