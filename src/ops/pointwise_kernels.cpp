#include "channel_scale.hpp"
#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"
#include "pluvia/core/math.hpp"

namespace pluvia::kernels {

void gelu(const ConstView& x, const View& y) {
  for_cells(y.shape, y.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    y.cell(at.b, at.t, at.y, at.x)[c] = pluvia::gelu(x.cell(at.b, at.t, at.y, at.x)[c]);
  });
}

void gelu_gradient(const ConstView& x, const ConstView& dy, const View& dx) {
  for_cells(dx.shape, dx.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    dx.cell(at.b, at.t, at.y, at.x)[c] =
        dy.cell(at.b, at.t, at.y, at.x)[c] * gelu_slope(x.cell(at.b, at.t, at.y, at.x)[c]);
  });
}

void draw_channels(const Dropout& dropout, std::uint64_t layer, const View& scale) {
  float* const to = scale.origin;
  launch(scale.shape.c, [=] PLUVIA_ANYWHERE(Index c) {
    to[c] = channel_scale(dropout, layer, dropout.sample_there ? *dropout.sample_there : dropout.sample, c);
  });
}

void scale_channels(const ConstView& x, const float* scale, const View& y) {
  for_cells(y.shape, y.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    y.cell(at.b, at.t, at.y, at.x)[c] = x.cell(at.b, at.t, at.y, at.x)[c] * scale[c];
  });
}

void blend(const ConstView& g, const ConstView& a, const ConstView& b, const View& y) {
  for_cells(y.shape, y.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const float av = a.cell(at.b, at.t, at.y, at.x)[c], bv = b.cell(at.b, at.t, at.y, at.x)[c];
    y.cell(at.b, at.t, at.y, at.x)[c] = std::fma(sigmoid(g.cell(at.b, at.t, at.y, at.x)[c]), av - bv, bv);
  });
}

void blend_gradients(const ConstView& g, const ConstView& a, const ConstView& b, const ConstView& dy,
                     const View& dg, const View& da, const View& db) {
  for_cells(dy.shape, dy.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const float share = sigmoid(g.cell(at.b, at.t, at.y, at.x)[c]), d = dy.cell(at.b, at.t, at.y, at.x)[c],
                of_a = d * share;
    const float difference = a.cell(at.b, at.t, at.y, at.x)[c] - b.cell(at.b, at.t, at.y, at.x)[c];
    da.cell(at.b, at.t, at.y, at.x)[c] = of_a;
    db.cell(at.b, at.t, at.y, at.x)[c] = d - of_a;
    dg.cell(at.b, at.t, at.y, at.x)[c] = d * difference * share * (1.0F - share);
  });
}

} // namespace pluvia::kernels
