#include "pluvia/ops/weight_gradient.hpp"

#include <algorithm>
#include <cstring>

#include "kernels.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

/// Some frames, rows and columns of one sample.
struct Part {
  Index sample, t, y, x, frames, height, width;
};

/// A copy of a part with margins around it.
Tensor crop(const Tensor& from, const Part& part, const Margin& m) {
  Tensor out({1, part.frames, part.height, part.width, from.shape().c}, m);
  const Index height = part.height + m.y_lo + m.y_hi,
              values = (part.width + m.x_lo + m.x_hi) * from.shape().c;
  parallel_for((part.frames + m.t_lo + m.t_hi) * height, [&](Index row) {
    const Index t = row / height - m.t_lo, y = row % height - m.y_lo;
    std::memcpy(out.cell(0, t, y, -m.x_lo), from.cell(part.sample, part.t + t, part.y + y, part.x - m.x_lo),
                static_cast<std::size_t>(values) * sizeof(float));
  });
  return out;
}

ConstView rows_of(const Tensor& x, Index first, Index count) {
  ConstView out = x.view();
  out.origin = out.cell(0, 0, first, 0);
  out.shape.y = count;
  return out;
}

/// Over those rows of the tile that are this rank's share.
void pull_own_rows(const GradientBlocks& share, Precision precision, const Tensor& x, const Tensor& dy,
                   const Stencil& stencil, Tensor& dw, float* db) {
  const Shape& s = dy.shape();
  const Index first = s.y * share.member / share.members,
              count = s.y * (share.member + 1) / share.members - first;
  if (count == 0) return;
  if (x.device() == Device::gpu)
    return kernels::convolve_weight_gradient(precision, rows_of(x, first, count), rows_of(dy, first, count),
                                             stencil, dw.cell(0, 0, 0, 0), db);
  for (Index b = 0; b < s.b; ++b) {
    const Part part{b, 0, first, 0, s.t, count, s.x};
    convolution_pull_weight(precision, crop(x, part, reach(stencil)), crop(dy, part, {}), stencil, dw, db);
  }
}

} // namespace

void pull_convolution_weight(const GradientBlocks& blocks, Precision precision, const Tensor& x,
                             const Tensor& dy, const Stencil& stencil, Parameter& weight, Parameter* bias) {
  if (!blocks) {
    float* const db = bias ? bias->grad.cell(0, 0, 0, 0) : nullptr;
    if (blocks.members > 1)
      pull_own_rows(blocks, precision, x, dy, stencil, weight.grad, db);
    else
      convolution_pull_weight(precision, x, dy, stencil, weight.grad, db);
    return;
  }
  const Shape& s = dy.shape();
  const Index frames = blocks.frames > 0 ? blocks.frames : s.t, rows = blocks.rows(s.y),
              columns = blocks.columns(s.x);
  Tensor dw(weight.value.shape()), db({1, 1, 1, 1, s.c});
  constexpr std::size_t piece = 16384;
  const std::size_t pieces = (dw.storage().size() + piece - 1) / piece;
  Index turn = 0;
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; t += frames)
      for (Index y = 0; y < s.y; y += rows)
        for (Index ix = 0; ix < s.x; ix += columns) {
          if (turn++ % blocks.members != blocks.member) continue;
          const Part part{
              b, t, y, ix, std::min(frames, s.t - t), std::min(rows, s.y - y), std::min(columns, s.x - ix)};
          dw.fill(0.0F);
          db.fill(0.0F);
          convolution_pull_weight(precision, crop(x, part, reach(stencil)), crop(dy, part, {}), stencil, dw,
                                  db.cell(0, 0, 0, 0));
          parallel_for(static_cast<Index>(pieces), [&](Index i) {
            const std::size_t first = static_cast<std::size_t>(i) * piece;
            weight.sums.add(first, dw.storage().subspan(first, std::min(piece, dw.storage().size() - first)));
          });
          if (bias) bias->sums.add(0, db.storage());
        }
}

} // namespace pluvia
