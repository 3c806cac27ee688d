#include <utility>

#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"
#include "pluvia/core/math.hpp"
#include "sixteen.hpp"

namespace pluvia::kernels {

namespace {

constexpr int lanes = 16;
constexpr float epsilon = 1e-5F;

struct Moments {
  float mean, inverse_deviation;
};
PLUVIA_ANYWHERE Moments moments(const float* x, Index channels) {
  Sixteen total{}, squares{};
  for (Index c = 0; c < channels; c += lanes) {
    const Sixteen v = load(x + c);
    for (int l = 0; l < lanes; ++l) total.v[l] += v.v[l];
  }
  const float mean = tree_sum(total) / static_cast<float>(channels);
  for (Index c = 0; c < channels; c += lanes) {
    const Sixteen v = load(x + c);
    for (int l = 0; l < lanes; ++l) {
      const float d = v.v[l] + -mean;
      squares.v[l] = std::fma(d, d, squares.v[l]);
    }
  }
  return {mean, 1.0F / std::sqrt(tree_sum(squares) / static_cast<float>(channels) + epsilon)};
}

PLUVIA_ANYWHERE float upstream(Activation activation, float dy, float normed, float gain, float bias) {
  return activation == Activation::gelu ? dy * gelu_slope(std::fma(normed, gain, bias)) : dy;
}

} // namespace

void layer_norm(Activation activation, const ConstView& x, const float* gain, const float* bias,
                const View& y) {
  const Index channels = x.shape.c;
  for_cells(x.shape, 1, [=] PLUVIA_ANYWHERE(const CellAt& at, Index) {
    const float* from = x.cell(at.b, at.t, at.y, at.x);
    float* to = y.cell(at.b, at.t, at.y, at.x);
    const Moments m = moments(from, channels);
    for (Index c = 0; c < channels; c += lanes) {
      Sixteen v = load(from + c);
      const Sixteen g = load(gain + c), o = load(bias + c);
      for (int l = 0; l < lanes; ++l)
        v.v[l] = std::fma((v.v[l] - m.mean) * m.inverse_deviation, g.v[l], o.v[l]);
      if (activation == Activation::gelu)
        for (int l = 0; l < lanes; ++l) v.v[l] = pluvia::gelu(v.v[l]);
      store(v, to + c);
    }
  });
}

void layer_norm_gradients(Activation activation, const ConstView& x, const ConstView& dy, const float* gain,
                          const float* bias, const View& dx, float* dgain, float* dbias) {
  const Index channels = x.shape.c;
  // What the sums over cells are made of: [.., 2 C], the terms of dgain and of dbias.
  Shape twice = x.shape;
  twice.c *= 2;
  Tensor terms(twice, {}, Device::gpu);
  const View out = terms.view();
  for_cells(x.shape, 1, [=] PLUVIA_ANYWHERE(const CellAt& at, Index) {
    const float* from = x.cell(at.b, at.t, at.y, at.x);
    const float* up = dy.cell(at.b, at.t, at.y, at.x);
    float* to = dx.cell(at.b, at.t, at.y, at.x);
    float *of_gain = out.cell(at.b, at.t, at.y, at.x), *of_bias = of_gain + channels;
    const Moments m = moments(from, channels);
    Sixteen a{}, e{};
    for (Index c = 0; c < channels; c += lanes) {
      Sixteen n = load(from + c), u = load(up + c);
      const Sixteen g = load(gain + c), o = load(bias + c);
      for (int l = 0; l < lanes; ++l) {
        n.v[l] = (n.v[l] + -m.mean) * m.inverse_deviation;
        u.v[l] = upstream(activation, u.v[l], n.v[l], g.v[l], o.v[l]);
      }
      store(u, of_bias + c);
      for (int l = 0; l < lanes; ++l) {
        const float ug = u.v[l] * g.v[l];
        a.v[l] = a.v[l] + ug;
        e.v[l] = std::fma(ug, n.v[l], e.v[l]);
        u.v[l] *= n.v[l];
      }
      store(u, of_gain + c);
    }
    const float minus_a = -tree_sum(a) / static_cast<float>(channels),
                minus_e = -tree_sum(e) / static_cast<float>(channels);
    for (Index c = 0; c < channels; c += lanes) {
      Sixteen n = load(from + c);
      const Sixteen u = load(of_bias + c), g = load(gain + c);
      for (int l = 0; l < lanes; ++l) {
        n.v[l] = (n.v[l] + -m.mean) * m.inverse_deviation;
        n.v[l] = m.inverse_deviation * std::fma(n.v[l], minus_e, u.v[l] * g.v[l] + minus_a);
      }
      store(n, to + c);
    }
  });
  Tensor sums = Tensor::zeros({1, 1, 1, 1, 2 * channels}, {}, Device::gpu);
  float* const both = sums.cell(0, 0, 0, 0);
  add_channel_sums(terms.view(), both);
  launch(channels, [=] PLUVIA_ANYWHERE(Index c) {
    dgain[c] += both[c];
    dbias[c] += both[channels + c];
  });
}

void add_channel_sums(const ConstView& x, float* to) {
  const Index cells = x.shape.cells(), channels = x.shape.c;
  constexpr Index chunk_cells = 256;
  const Index chunks = (cells + chunk_cells - 1) / chunk_cells;
  Tensor partial({1, 1, 1, chunks, channels}, {}, Device::gpu);
  float* const sums = partial.cell(0, 0, 0, 0);
  launch(chunks * channels, [=] PLUVIA_ANYWHERE(Index i) {
    const Division d = divide(i, channels);
    const Index first = d.quotient * chunk_cells,
                last = first + chunk_cells < cells ? first + chunk_cells : cells;
    float sum = 0;
    for (Index cell = first; cell < last; ++cell) {
      const CellAt at = cell_at(x.shape, cell);
      sum += x.cell(at.b, at.t, at.y, at.x)[d.rest];
    }
    sums[i] = sum;
  });
  // Few threads add up the chunks, so these must be few.
  if (chunks > chunk_cells) return add_channel_sums(std::as_const(partial).view(), to);
  launch(channels, [=] PLUVIA_ANYWHERE(Index c) {
    float sum = 0;
    for (Index chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * channels + c];
    to[c] += sum;
  });
}

void sum_over_cells(const ConstView& x, Index first, const View& to) {
  const Shape s = x.shape;
  const Index rows = s.b * s.y;
  Tensor partial({1, s.t, 1, rows, s.c}, {}, Device::gpu);
  const View sums = partial.view();
  for_cells(sums.shape, s.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    float sum = 0;
    for (Index ix = 0; ix < s.x; ++ix) sum += x.cell(at.x / s.y, at.t, at.x % s.y, ix)[c];
    sums.cell(0, at.t, 0, at.x)[c] = sum;
  });
  for_cells(to.shape, s.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    float sum = 0;
    if (at.t >= first && at.t < first + s.t)
      for (Index row = 0; row < rows; ++row) sum += sums.cell(0, at.t - first, 0, row)[c];
    to.cell(0, at.t, 0, 0)[c] = sum;
  });
}

} // namespace pluvia::kernels
