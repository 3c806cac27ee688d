#include <cmath>

#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"
#include "pluvia/core/math.hpp"

namespace pluvia::kernels {

void take_rows(const ConstView& from, Index t, Index row, const View& part) {
  for_cells(part.shape, part.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    part.cell(at.b, 0, at.y, at.x)[c] = from.cell(at.b, t, at.y + row, at.x)[c];
  });
}

void put_rows(const ConstView& part, const View& to, Index t, Index row) {
  for_cells(part.shape, part.shape.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    to.cell(at.b, t, at.y + row, at.x)[c] = part.cell(at.b, 0, at.y, at.x)[c];
  });
}

void step_gates(const View& gates, const View& hidden, const View& memory) {
  const Index n = hidden.shape.c;
  for_cells(hidden.shape, n, [=] PLUVIA_ANYWHERE(const CellAt& at, Index i) {
    float* const g = gates.cell(at.b, 0, at.y, at.x) + i;
    const float in = sigmoid(g[0]), forget = sigmoid(g[n]), out = sigmoid(g[2 * n]),
                fresh = tanh_f32(g[3 * n]);
    g[0] = in, g[n] = forget, g[2 * n] = out, g[3 * n] = fresh;
    float& c = memory.cell(at.b, 0, at.y, at.x)[i];
    c = std::fma(forget, c, in * fresh);
    hidden.cell(at.b, 0, at.y, at.x)[i] = out * tanh_f32(c);
  });
}

void pull_gates(const View& gates, const ConstView& d_hidden, const ConstView& memory_record, Index t,
                Index row, const View& hidden, const View& memory) {
  const Index n = hidden.shape.c;
  for_cells(hidden.shape, n, [=] PLUVIA_ANYWHERE(const CellAt& at, Index i) {
    float* const g = gates.cell(at.b, 0, at.y, at.x) + i;
    const Index y = at.y + row;
    const float before = memory_record.cell(at.b, t - 1, y, at.x)[i],
                after = memory_record.cell(at.b, t, y, at.x)[i];
    const float dh = d_hidden.cell(at.b, t, y, at.x)[i] + hidden.cell(at.b, 0, at.y, at.x)[i],
                squashed = tanh_f32(after);
    float& dc = memory.cell(at.b, 0, at.y, at.x)[i];
    const float in = g[0], forget = g[n], out = g[2 * n], fresh = g[3 * n];
    const float d = std::fma(dh * out, 1.0F - squashed * squashed, dc);
    g[0] = d * fresh * in * (1.0F - in);
    g[n] = d * before * forget * (1.0F - forget);
    g[2 * n] = dh * squashed * out * (1.0F - out);
    g[3 * n] = d * in * (1.0F - fresh * fresh);
    dc = d * forget;
  });
}

} // namespace pluvia::kernels
