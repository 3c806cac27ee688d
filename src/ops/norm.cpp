#include "pluvia/ops/norm.hpp"

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

/// The cells of one row. The loops over lanes have fixed length and write to arrays of their own, so that
/// compilers make one vector operation of them.
template <Activation activation>
void normalise_row(const float* x, Index cells, Index channels, const float* gain, const float* bias,
                   float* y) {
  for (Index i = 0; i < cells; ++i, x += channels, y += channels) {
    const Moments m = moments(x, channels);
    for (Index c = 0; c < channels; c += lanes) {
      float n[lanes];
      for (Index l = 0; l < lanes; ++l)
        n[l] = std::fma((x[c + l] - m.mean) * m.inverse_deviation, gain[c + l], bias[c + l]);
      if constexpr (activation == Activation::gelu)
        for (Index l = 0; l < lanes; ++l) n[l] = gelu(n[l]);
      Vec16::load(n).store(y + c);
    }
  }
}

/// dx of one row; adds to the gradients of gain and bias.
template <Activation activation>
void pull_row(const float* x, const float* dy, Index cells, Index channels, const float* gain,
              const float* bias, float* dx, float* dgain, float* dbias) {
  std::vector<float> scratch(static_cast<std::size_t>(2 * channels));
  float *normed = scratch.data(), *upstream = normed + channels; // before the activation, times gain
  for (Index i = 0; i < cells; ++i, x += channels, dy += channels, dx += channels) {
    const Moments m = moments(x, channels);
    Vec16 a = Vec16::zero(), e = Vec16::zero();
    for (Index c = 0; c < channels; c += lanes) {
      float n[lanes], u[lanes];
      for (Index l = 0; l < lanes; ++l) n[l] = (x[c + l] - m.mean) * m.inverse_deviation;
      if constexpr (activation == Activation::gelu)
        for (Index l = 0; l < lanes; ++l)
          u[l] = dy[c + l] * gelu_slope(std::fma(n[l], gain[c + l], bias[c + l]));
      else
        for (Index l = 0; l < lanes; ++l) u[l] = dy[c + l];
      const Vec16 nv = Vec16::load(n), uv = Vec16::load(u), ug = uv * Vec16::load(gain + c);
      (Vec16::load(dbias + c) + uv).store(dbias + c);
      fma(uv, nv, Vec16::load(dgain + c)).store(dgain + c);
      nv.store(normed + c);
      ug.store(upstream + c);
      a = a + ug;
      e = fma(ug, nv, e);
    }
    const float mean_a = sum(a) / static_cast<float>(channels),
                mean_e = sum(e) / static_cast<float>(channels);
    const Vec16 minus_a = Vec16::broadcast(-mean_a), minus_e = Vec16::broadcast(-mean_e),
                inverse = Vec16::broadcast(m.inverse_deviation);
    for (Index c = 0; c < channels; c += lanes)
      (inverse * fma(Vec16::load(normed + c), minus_e, Vec16::load(upstream + c) + minus_a)).store(dx + c);
  }
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
    if (activation == Activation::gelu)
      normalise_row<Activation::gelu>(in, s.x, s.c, g, o, out);
    else
      normalise_row<Activation::none>(in, s.x, s.c, g, o, out);
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
      if (activation == Activation::gelu)
        pull_row<Activation::gelu>(in, dy, s.x, s.c, gv, ov, out, dg, db);
      else
        pull_row<Activation::none>(in, dy, s.x, s.c, gv, ov, out, dg, db);
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
