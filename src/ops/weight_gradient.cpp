#include "pluvia/ops/convolution_gradients.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <omp.h>

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

/// The blocks of a tile that are this rank's turn.
std::vector<Part> own_blocks(const GradientBlocks& blocks, const Shape& s) {
  const Index frames = blocks.frames > 0 ? blocks.frames : s.t, rows = blocks.rows(s.y),
              columns = blocks.columns(s.x);
  std::vector<Part> out;
  Index turn = 0;
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; t += frames)
      for (Index y = 0; y < s.y; y += rows)
        for (Index x = 0; x < s.x; x += columns)
          if (turn++ % blocks.members == blocks.member)
            out.push_back(
                {b, t, y, x, std::min(frames, s.t - t), std::min(rows, s.y - y), std::min(columns, s.x - x)});
  return out;
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
  const std::vector<Part> parts = own_blocks(blocks, dy.shape());
  // Each thread takes a block of its own where there are enough: to share out one of few cells takes longer
  // than its sums do.
  const auto threads = static_cast<std::size_t>(omp_get_max_threads()),
             at_once = parts.size() >= threads ? threads : 1;
  struct Sums {
    Tensor dw, db;
  };
  std::vector<Sums> sums;
  for (std::size_t i = 0; i < at_once; ++i)
    sums.push_back({Tensor(weight.value.shape()), Tensor({1, 1, 1, 1, dy.shape().c})});
  const std::size_t size = weight.value.storage().size();
  constexpr std::size_t piece = 16384;
  for (std::size_t first = 0; first < parts.size(); first += at_once) {
    const std::span now = std::span(parts).subspan(first, std::min(at_once, parts.size() - first));
    parallel_for(static_cast<Index>(now.size()), [&](Index i) {
      const Part& part = now[static_cast<std::size_t>(i)];
      auto& [dw, db] = sums[static_cast<std::size_t>(i)];
      dw.fill(0.0F);
      db.fill(0.0F);
      convolution_pull_weight(precision, crop(x, part, reach(stencil)), crop(dy, part, {}), stencil, dw,
                              db.cell(0, 0, 0, 0));
    });
    parallel_for(static_cast<Index>((size + piece - 1) / piece), [&](Index i) {
      const std::size_t from = static_cast<std::size_t>(i) * piece, count = std::min(piece, size - from);
      for (std::size_t k = 0; k < now.size(); ++k)
        weight.sums.add(from, sums[k].dw.storage().subspan(from, count));
    });
    if (bias)
      for (std::size_t k = 0; k < now.size(); ++k) bias->sums.add(0, sums[k].db.storage());
  }
}

} // namespace pluvia
