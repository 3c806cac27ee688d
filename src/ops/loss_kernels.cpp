#include "kernels.hpp"
#include "loss_of_cell.hpp"
#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

void ordinal_loss(const ConstView& logits, const std::int8_t* classes, const float* weights, FixedSum* sums,
                  const View& grad) {
  const Shape s = logits.shape;
  Tensor losses({s.b, s.t, s.y, s.x, 1}, {}, Device::gpu);
  const View loss = losses.view();
  for_cells(s, 1, [=] PLUVIA_ANYWHERE(const CellAt& at, Index) {
    const Index row = (at.b * s.t + at.t) * s.y + at.y;
    *loss.cell(at.b, at.t, at.y, at.x) =
        loss_of_cell(logits.cell(at.b, at.t, at.y, at.x), static_cast<int>(s.c), classes[row * s.x + at.x],
                     weights[row], grad.origin ? grad.cell(at.b, at.t, at.y, at.x) : nullptr);
  });
  launch(s.b * s.t * s.y, [=] PLUVIA_ANYWHERE(Index row) {
    const CellAt at = cell_at(s, row * s.x);
    const auto weight = static_cast<double>(weights[row]);
    FixedSum sum;
    for (Index x = 0; x < s.x; ++x)
      if (classes[row * s.x + x] >= 0 && weights[row] != 0.0F)
        sum.add(weight * *loss.cell(at.b, at.t, at.y, x));
    sums[row] = sum;
  });
}

} // namespace pluvia::kernels
