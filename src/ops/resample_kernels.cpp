#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

void merge(const ConstView& fine, const View& coarse) {
  const Index channels = fine.shape.c;
  for_cells(coarse.shape, coarse.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index k) {
    const Division part = divide(k, channels);
    const Index y = 2 * at.y + part.quotient / 2, x = 2 * at.x + part.quotient % 2;
    coarse.cell(at.b, at.t, at.y, at.x)[k] =
        y < fine.shape.y && x < fine.shape.x ? fine.cell(at.b, at.t, y, x)[part.rest] : 0.0F;
  });
}

void unmerge(const ConstView& coarse, const ConstView& addend, const View& fine) {
  const Index channels = fine.shape.c;
  for_cells(fine.shape, channels, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const float value = coarse.cell(at.b, at.t, at.y / 2, at.x / 2)[(at.y % 2 * 2 + at.x % 2) * channels + c];
    fine.cell(at.b, at.t, at.y, at.x)[c] =
        addend.origin ? value + addend.cell(at.b, at.t, at.y, at.x)[c] : value;
  });
}

void copy_cells(const ConstView& from, const View& to, Index height, Index width) {
  const Shape part{from.shape.b, from.shape.t, height, width, from.shape.c};
  for_cells(part, part.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    to.cell(at.b, at.t, at.y, at.x)[c] = from.cell(at.b, at.t, at.y, at.x)[c];
  });
}

} // namespace pluvia::kernels
