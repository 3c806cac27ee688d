#include "halo_kernels.hpp"

#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

void pack(const ConstView& tensor, Span frames, const Rect& cells, float* message) {
  const Shape box{tensor.shape.b, frames.size(), cells.height(), cells.width(), tensor.shape.c};
  const Index t0 = frames.from, y0 = cells.y0, x0 = cells.x0;
  for_cells(box, box.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const Index i = ((at.b * box.t + at.t) * box.y + at.y) * box.x + at.x;
    message[i * box.c + c] = tensor.cell(at.b, at.t + t0, at.y + y0, at.x + x0)[c];
  });
}

void unpack(const float* message, Span frames, const Rect& cells, const View& tensor) {
  const Shape box{tensor.shape.b, frames.size(), cells.height(), cells.width(), tensor.shape.c};
  const Index t0 = frames.from, y0 = cells.y0, x0 = cells.x0;
  for_cells(box, box.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const Index i = ((at.b * box.t + at.t) * box.y + at.y) * box.x + at.x;
    tensor.cell(at.b, at.t + t0, at.y + y0, at.x + x0)[c] = message[i * box.c + c];
  });
}

void zero_margins(const View& tensor, const Margin& m) {
  const Shape s = tensor.shape;
  if (m == Margin{}) return;
  const Shape whole{s.b, s.t + m.t_lo + m.t_hi, s.y + m.y_lo + m.y_hi, s.x + m.x_lo + m.x_hi, s.c};
  const Index t_lo = m.t_lo, y_lo = m.y_lo, x_lo = m.x_lo;
  for_cells(whole, s.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const Index t = at.t - t_lo, y = at.y - y_lo, x = at.x - x_lo;
    if (t < 0 || t >= s.t || y < 0 || y >= s.y || x < 0 || x >= s.x) tensor.cell(at.b, t, y, x)[c] = 0.0F;
  });
}

} // namespace pluvia::kernels
