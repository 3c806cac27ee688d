#include "pluvia/core/tensor.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

namespace pluvia {

void Tensor::Free::operator()(float* p) const { std::free(p); }

Tensor::Tensor(Shape s, Margin m) : shape_(s), margin_(m) {
  stride_y_ = (s.x + m.x_lo + m.x_hi) * s.c;
  stride_t_ = (s.y + m.y_lo + m.y_hi) * stride_y_;
  stride_b_ = (s.t + m.t_lo + m.t_hi) * stride_t_;
  size_ = static_cast<std::size_t>(s.b * stride_b_);
  constexpr std::size_t alignment = 64; // a cache line and the widest vector
  const std::size_t bytes = (size_ * sizeof(float) + alignment) / alignment * alignment;
  data_.reset(static_cast<float*>(std::aligned_alloc(alignment, bytes)));
  if (!data_) throw std::bad_alloc();
  origin_ = data_.get() + m.t_lo * stride_t_ + m.y_lo * stride_y_ + m.x_lo * s.c;
#ifndef NDEBUG
  fill(std::numeric_limits<float>::quiet_NaN());
#endif
}

Tensor Tensor::zeros(Shape s, Margin m) {
  Tensor t(s, m);
  t.fill(0.0F);
  return t;
}

void Tensor::fill(float value) { std::fill_n(data_.get(), size_, value); }

Tensor Tensor::clone(Margin m) const {
  Tensor copy(shape_, m);
  const std::size_t row_bytes = static_cast<std::size_t>(shape_.x * shape_.c) * sizeof(float);
  for (Index b = 0; b < shape_.b; ++b)
    for (Index t = 0; t < shape_.t; ++t)
      for (Index y = 0; y < shape_.y; ++y) std::memcpy(copy.cell(b, t, y, 0), cell(b, t, y, 0), row_bytes);
  return copy;
}

} // namespace pluvia
