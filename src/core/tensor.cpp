#include "pluvia/core/tensor.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "pluvia/core/parallel_for.hpp"
#include "tensor_kernels.hpp"

namespace pluvia {

namespace {

std::atomic<std::int64_t> allocations{0}, allocated_bytes{0};

constexpr std::size_t huge_page = std::size_t{2} << 20;
/// From this size on a tensor apart has a mapping of its own.
constexpr std::size_t large = std::size_t{128} << 20;

float* map(std::size_t bytes) {
  // Huge pages begin at multiples of their size, mappings do not: what lies before and after goes back.
  void* const raw =
      mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto* const first = static_cast<std::byte*>(raw);
  const std::size_t before = (huge_page - reinterpret_cast<std::uintptr_t>(raw) % huge_page) % huge_page;
  if (before > 0) munmap(first, before);
  if (before < huge_page) munmap(first + before + bytes, huge_page - before);
  madvise(first + before, bytes, MADV_HUGEPAGE);
  return reinterpret_cast<float*>(first + before);
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
  else if (mapped > 0)
    munmap(p, mapped);
  else
    std::free(p);
}

Tensor Tensor::apart(Shape s, Margin m) {
  return {s, m, Device::host, Place::apart};
}

Tensor::Tensor(Shape s, Margin m, Device device, Place place) : shape_(s), margin_(m) {
  stride_y_ = (s.x + m.x_lo + m.x_hi) * s.c;
  stride_t_ = (s.y + m.y_lo + m.y_hi) * stride_y_;
  stride_b_ = (s.t + m.t_lo + m.t_hi) * stride_t_;
  size_ = static_cast<std::size_t>(s.b * stride_b_);
  constexpr std::size_t alignment = 64; // a cache line and the widest vector
  const std::size_t bytes = (size_ * sizeof(float) + alignment) / alignment * alignment;
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
  if (device == Device::gpu) {
    data_ = {static_cast<float*>(accelerator::allocate(bytes)), Free(device)};
  } else if (place == Place::apart && bytes >= large) {
    const std::size_t pages = (bytes + huge_page - 1) / huge_page * huge_page;
    data_ = {map(pages), Free(device, pages)};
  } else {
    data_.reset(static_cast<float*>(std::aligned_alloc(alignment, bytes)));
    if (!data_) throw std::bad_alloc();
  }
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
  if (device() == Device::gpu) return kernels::fill(data_.get(), size_, value);
  constexpr std::size_t piece = 65536;
  parallel_for(static_cast<Index>((size_ + piece - 1) / piece), [&](Index i) {
    const std::size_t first = static_cast<std::size_t>(i) * piece;
    std::fill_n(data_.get() + first, std::min(piece, size_ - first), value);
  });
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
  read_values(tensor, 0, out);
  return out;
}

void set_values(Tensor& tensor, std::span<const float> values) {
  assert(values.size() == tensor.storage().size());
  write_values(tensor, 0, values);
}

void read_values(const Tensor& tensor, Index from, std::span<float> values) {
  const auto those = tensor.storage().subspan(static_cast<std::size_t>(from), values.size());
  if (tensor.device() == Device::gpu)
    accelerator::to_host(values.data(), those.data(), those.size_bytes());
  else
    std::ranges::copy(those, values.begin());
}

void write_values(Tensor& tensor, Index from, std::span<const float> values) {
  const auto those = tensor.storage().subspan(static_cast<std::size_t>(from), values.size());
  if (tensor.device() == Device::gpu)
    accelerator::to_accelerator(those.data(), values.data(), values.size_bytes());
  else
    std::ranges::copy(values, those.begin());
}

void add_to(Tensor& to, const Tensor& d) {
  assert(to.shape() == d.shape() && to.device() == d.device());
  if (to.device() == Device::gpu) return kernels::add(d.view(), to.view());
  for_rows(to, d, [](float* sum, const float* from, Index n) {
    for (Index i = 0; i < n; ++i) sum[i] += from[i];
  });
}

void Tensor::discard_rows(Index end) {
  if (data_.get_deleter().mapped == 0) return;
  constexpr std::uintptr_t page = 4096;
  for (Index b = 0; b < shape_.b; ++b)
    for (Index t = -margin_.t_lo; t < shape_.t + margin_.t_hi; ++t) {
      const auto first = reinterpret_cast<std::uintptr_t>(cell(b, t, -margin_.y_lo, -margin_.x_lo)),
                 last = reinterpret_cast<std::uintptr_t>(cell(b, t, end, -margin_.x_lo));
      const std::uintptr_t from = (first + page - 1) / page * page, to = last / page * page;
      if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
    }
}

TensorAllocations tensor_allocations() {
  return {allocations.load(std::memory_order_relaxed), allocated_bytes.load(std::memory_order_relaxed)};
}

} // namespace pluvia
