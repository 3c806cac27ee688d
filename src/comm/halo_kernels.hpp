#pragma once
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia::kernels {

// On the accelerator; Local. A box of cells: [B, frames, rows, columns, C], side by side in a message there.
void pack(const ConstView& tensor, Span frames, const Rect& cells, float* message);
void unpack(const float* message, Span frames, const Rect& cells, const View& tensor);
void zero_margins(const View& tensor, const Margin& margin);

} // namespace pluvia::kernels
