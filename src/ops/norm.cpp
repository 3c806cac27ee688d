#include "pluvia/ops/norm.hpp"

#include <algorithm>
#include <cassert>
#include <span>
#include <vector>

#include "kernels.hpp"
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

/// Some cells are worked on together, one stage after the other, so that the long chains of operations of one
/// cell run beside those of its neighbours.
constexpr Index values_at_once = 1024;

/// The cells of one row. The loops over lanes have fixed length and write to arrays of their own, so that
/// compilers make one vector operation of them.
template <Activation activation>
void normalise_row(const float* x, Index cells, Index channels, const float* gain, const float* bias,
                   float* y) {
  const Index most = std::max<Index>(1, values_at_once / channels);
  for (Index first = 0; first < cells; first += most) {
    const Index n = std::min(most, cells - first);
    for (Index i = 0; i < n; ++i) {
      const float* from = x + (first + i) * channels;
      float* to = y + (first + i) * channels;
      const Moments m = moments(from, channels);
      for (Index c = 0; c < channels; c += lanes) {
        float v[lanes];
        for (Index l = 0; l < lanes; ++l)
          v[l] = std::fma((from[c + l] - m.mean) * m.inverse_deviation, gain[c + l], bias[c + l]);
        Vec16::load(v).store(to + c);
      }
    }
    if constexpr (activation == Activation::gelu) {
      float* to = y + first * channels;
      for (Index i = 0; i < n * channels; i += lanes) {
        float v[lanes];
        for (Index l = 0; l < lanes; ++l) v[l] = gelu(to[i + l]);
        Vec16::load(v).store(to + i);
      }
    }
  }
}

/// dx of one row; adds to the gradients of gain and bias.
template <Activation activation>
void pull_row(const float* x, const float* dy, Index cells, Index channels, const float* gain,
              const float* bias, float* dx, float* dgain, float* dbias) {
  const Index most = std::max<Index>(1, values_at_once / channels);
  std::vector<float> scratch(static_cast<std::size_t>(2 * most * channels + most));
  float *normed = scratch.data(), *upstream = normed + most * channels, *inverse = upstream + most * channels;
  for (Index first = 0; first < cells; first += most) {
    const Index n = std::min(most, cells - first);
    for (Index i = 0; i < n; ++i) {
      const float* from = x + (first + i) * channels;
      const Moments m = moments(from, channels);
      inverse[i] = m.inverse_deviation;
      const Vec16 minus_mean = Vec16::broadcast(-m.mean), factor = Vec16::broadcast(m.inverse_deviation);
      for (Index c = 0; c < channels; c += lanes)
        ((Vec16::load(from + c) + minus_mean) * factor).store(normed + i * channels + c);
    }
    const float* up = dy + first * channels;
    if constexpr (activation == Activation::gelu) {
      for (Index i = 0; i < n * channels; i += channels)
        for (Index c = 0; c < channels; c += lanes) {
          float u[lanes];
          for (Index l = 0; l < lanes; ++l)
            u[l] = up[i + c + l] * gelu_slope(std::fma(normed[i + c + l], gain[c + l], bias[c + l]));
          Vec16::load(u).store(upstream + i + c);
        }
      up = upstream;
    }
    for (Index i = 0; i < n; ++i) {
      const float *nv = normed + i * channels, *uv = up + i * channels;
      Vec16 a = Vec16::zero(), e = Vec16::zero();
      for (Index c = 0; c < channels; c += lanes) {
        const Vec16 nc = Vec16::load(nv + c), uc = Vec16::load(uv + c), ug = uc * Vec16::load(gain + c);
        (Vec16::load(dbias + c) + uc).store(dbias + c);
        fma(uc, nc, Vec16::load(dgain + c)).store(dgain + c);
        a = a + ug;
        e = fma(ug, nc, e);
      }
      const Vec16 minus_a = Vec16::broadcast(-sum(a) / static_cast<float>(channels)),
                  minus_e = Vec16::broadcast(-sum(e) / static_cast<float>(channels)),
                  factor = Vec16::broadcast(inverse[i]);
      float* to = dx + (first + i) * channels;
      for (Index c = 0; c < channels; c += lanes) {
        const Vec16 ug = Vec16::load(uv + c) * Vec16::load(gain + c);
        (factor * fma(Vec16::load(nv + c), minus_e, ug + minus_a)).store(to + c);
      }
    }
  }
}

void normalise(Activation activation, const Tensor& x, const Tensor& gain, const Tensor& bias, Tensor& y) {
  const float *g = gain.cell(0, 0, 0, 0), *o = bias.cell(0, 0, 0, 0);
  if (x.device() == Device::gpu) return kernels::layer_norm(activation, x.view(), g, o, y.view());
  const Shape& s = x.shape();
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index iy = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const float* in = x.cell(b, t, iy, 0);
    float* out = y.cell(b, t, iy, 0);
    if (activation == Activation::gelu)
      normalise_row<Activation::gelu>(in, s.x, s.c, g, o, out);
    else
      normalise_row<Activation::none>(in, s.x, s.c, g, o, out);
  });
}

/// dx, and adds to the gradients of gain and bias where they count. `piece`: cells of a row that lie in one
/// block.
void pull_normalise(Activation activation, const Tensor& x, const Tensor& dy, Parameter& gain,
                    Parameter& bias, Index piece, bool counts, Tensor& dx) {
  const float *gv = gain.value.cell(0, 0, 0, 0), *ov = bias.value.cell(0, 0, 0, 0);
  if (x.device() == Device::gpu && !counts) {
    Tensor unused(gain.grad.shape(), {}, Device::gpu);
    float* const sums = unused.cell(0, 0, 0, 0);
    return kernels::layer_norm_gradients(activation, x.view(), dy.view(), gv, ov, dx.view(), sums, sums);
  }
  if (x.device() == Device::gpu)
    return kernels::layer_norm_gradients(activation, x.view(), dy.view(), gv, ov, dx.view(),
                                         gain.grad.cell(0, 0, 0, 0), bias.grad.cell(0, 0, 0, 0));
  const Shape& s = x.shape();
  const Index pieces = (s.x + piece - 1) / piece, count = s.b * s.t * s.y * pieces;
  // Partial sums per piece, added in their order afterwards: the same for every thread count.
  std::vector<float> partial(static_cast<std::size_t>(count * 2 * s.c), 0.0F);
  parallel_for(count, [&](Index i) {
    const Index row = i / pieces, first = i % pieces * piece, cells = std::min(piece, s.x - first);
    const Index iy = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const float* in = x.cell(b, t, iy, first);
    const float* d = dy.cell(b, t, iy, first);
    float* out = dx.cell(b, t, iy, first);
    float *dg = partial.data() + i * 2 * s.c, *db = dg + s.c;
    if (activation == Activation::gelu)
      pull_row<Activation::gelu>(in, d, cells, s.c, gv, ov, out, dg, db);
    else
      pull_row<Activation::none>(in, d, cells, s.c, gv, ov, out, dg, db);
  });
  if (!counts) return;
  const auto channels = static_cast<std::size_t>(s.c);
  for (Index i = 0; i < count; ++i) {
    const auto sums = std::span<const float>(partial).subspan(static_cast<std::size_t>(i) * 2 * channels);
    add_gradient(gain, sums.first(channels));
    add_gradient(bias, sums.subspan(channels, channels));
  }
}

} // namespace

Var layer_norm(Tape& tape, const Var& x, Parameter& gain, Parameter& bias, Activation activation,
               Margin out_margin) {
  const Shape s = x->value.shape();
  assert(s.c % lanes == 0);
  Tensor y(s, out_margin, x->value.device());
  normalise(activation, x->value, gain.value, bias.value, y);
  // A piece of a row that lies in one block; the whole row without blocks.
  const Index piece = tape.blocks() ? tape.blocks().columns(s.x) : s.x;
  const auto pull = [x, &gain, &bias, activation, s, piece, counts = tape.blocks().counts()](Node& node) {
    Tensor dx(s, x->grad_margin, x->value.device());
    pull_normalise(activation, x->value, node.grad, gain, bias, piece, counts, dx);
    accumulate(*x, std::move(dx));
  };
  return tape.record(std::move(y), {"layer_norm", s.c}, pull, {}, {&gain, &bias});
}

} // namespace pluvia
