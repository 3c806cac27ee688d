#include "kernels.hpp"
#include "loss_of_cell.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

namespace {
constexpr Index parts = 64; ///< of the rows that are summed at once
} // namespace

void ordinal_loss(const ConstView& logits, const std::int8_t* classes, const float* weights, FixedSum* sum,
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
  const Index rows = s.b * s.t * s.y;
  DeviceArray<FixedSum> of_rows(static_cast<std::size_t>(rows)), of_parts(parts);
  FixedSum *const row_sums = of_rows.data(), *const part_sums = of_parts.data();
  launch(rows, [=] PLUVIA_ANYWHERE(Index row) {
    const CellAt at = cell_at(s, row * s.x);
    const auto weight = static_cast<double>(weights[row]);
    FixedSum of_row;
    for (Index x = 0; x < s.x; ++x)
      if (classes[row * s.x + x] >= 0 && weights[row] != 0.0F)
        of_row.add(weight * *loss.cell(at.b, at.t, at.y, x));
    row_sums[row] = of_row;
  });
  launch(parts, [=] PLUVIA_ANYWHERE(Index part) {
    FixedSum of_part;
    for (Index row = part; row < rows; row += parts) of_part.add(row_sums[row]);
    part_sums[part] = of_part;
  });
  launch(1, [=] PLUVIA_ANYWHERE(Index) {
    for (Index part = 0; part < parts; ++part) sum->add(part_sums[part]);
  });
}

} // namespace pluvia::kernels
