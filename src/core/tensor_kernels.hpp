#pragma once
#include <cstddef>

#include "pluvia/core/tensor.hpp"

namespace pluvia::kernels {

// On the accelerator; Local.
void fill(float* values, std::size_t size, float value);
/// The interiors of two tensors of one shape.
void copy(const ConstView& from, const View& to);
void add(const ConstView& from, const View& to);

} // namespace pluvia::kernels
