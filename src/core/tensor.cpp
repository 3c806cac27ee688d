#include "pluvia/core/tensor.hpp"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "pluvia/core/parallel_for.hpp"
#include "tensor_kernels.hpp"

namespace pluvia {

namespace {

void* allocate(std::size_t bytes, Device device) {
  if (device == Device::gpu) return accelerator::allocate(bytes);
  constexpr std::size_t alignment = 64; // a cache line and the widest vector
  void* const memory = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

/// Calls copy(row of to, row of from, values) for the rows of both interiors.
template <class F> void for_rows(Tensor& to, const Tensor& from, F&& f) {
  const Shape& s = from.shape();
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    f(to.cell(b, t, y, 0), from.cell(b, t, y, 0), s.x * s.c);
  });
}

} // namespace

void Tensor::Free::operator()(float* p) const {
  if (device == Device::gpu)
    accelerator::release(p);
  else
    std::free(p);
}

Tensor::Tensor(Shape s, Margin m, Device device) : shape_(s), margin_(m) {
  stride_y_ = (s.x + m.x_lo + m.x_hi) * s.c;
  stride_t_ = (s.y + m.y_lo + m.y_hi) * stride_y_;
  stride_b_ = (s.t + m.t_lo + m.t_hi) * stride_t_;
  size_ = static_cast<std::size_t>(s.b * stride_b_);
  data_ = {static_cast<float*>(allocate(size_ * sizeof(float), device)), Free{device}};
  origin_ = data_.get() + m.t_lo * stride_t_ + m.y_lo * stride_y_ + m.x_lo * s.c;
#ifndef NDEBUG
  fill(std::numeric_limits<float>::quiet_NaN());
#endif
}

Tensor Tensor::zeros(Shape s, Margin m, Device device) {
  Tensor t(s, m, device);
  t.fill(0.0F);
  return t;
}

void Tensor::fill(float value) {
  if (device() == Device::gpu)
    kernels::fill(data_.get(), size_, value);
  else
    std::fill_n(data_.get(), size_, value);
}

Tensor Tensor::clone(Margin m) const {
  Tensor copy(shape_, m, device());
  if (device() == Device::gpu)
    kernels::copy(view(), copy.view());
  else
    for_rows(copy, *this, [](float* to, const float* from, Index n) {
      std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    });
  return copy;
}

Tensor Tensor::to(Device device) const {
  Tensor copy(shape_, margin_, device);
  const std::size_t bytes = size_ * sizeof(float);
  if (device == Device::host)
    set_values(copy, values_of(*this));
  else if (this->device() == Device::host)
    accelerator::to_accelerator(copy.data_.get(), data_.get(), bytes);
  else
    accelerator::copy(copy.data_.get(), data_.get(), bytes);
  return copy;
}

Tensor moved(Tensor&& tensor, Device device) {
  return tensor.device() == device ? std::move(tensor) : tensor.to(device);
}

std::vector<float> values_of(const Tensor& tensor) {
  const auto from = tensor.storage();
  if (tensor.device() == Device::host) return {from.begin(), from.end()};
  std::vector<float> out(from.size());
  accelerator::to_host(out.data(), from.data(), from.size_bytes());
  return out;
}

void set_values(Tensor& tensor, std::span<const float> values) {
  const auto to = tensor.storage();
  assert(values.size() == to.size());
  if (tensor.device() == Device::gpu)
    accelerator::to_accelerator(to.data(), values.data(), values.size_bytes());
  else
    std::ranges::copy(values, to.begin());
}

void add_to(Tensor& to, const Tensor& d) {
  assert(to.shape() == d.shape() && to.device() == d.device());
  if (to.device() == Device::gpu) return kernels::add(d.view(), to.view());
  for_rows(to, d, [](float* sum, const float* from, Index n) {
    for (Index i = 0; i < n; ++i) sum[i] += from[i];
  });
}

} // namespace pluvia
