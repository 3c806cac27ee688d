#include "tensor_kernels.hpp"

#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

void fill(float* values, std::size_t size, float value) {
  launch(static_cast<Index>(size), [=] PLUVIA_ANYWHERE(Index i) { values[i] = value; });
}

void copy(const ConstView& from, const View& to) {
  for_cells(from.shape, from.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    to.cell(at.b, at.t, at.y, at.x)[c] = from.cell(at.b, at.t, at.y, at.x)[c];
  });
}

void add(const ConstView& from, const View& to) {
  for_cells(from.shape, from.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    to.cell(at.b, at.t, at.y, at.x)[c] += from.cell(at.b, at.t, at.y, at.x)[c];
  });
}

} // namespace pluvia::kernels
