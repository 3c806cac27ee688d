#include "pluvia/core/tensor.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

namespace pluvia {

namespace {

std::atomic<std::int64_t> allocations{0}, allocated_bytes{0};

constexpr std::size_t huge_page = std::size_t{2} << 20;
/// From this size on a tensor is worth a mapping.
constexpr std::size_t large = std::size_t{128} << 20;

/// In huge pages, where there are some: clearing these costs little beside what fills them.
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

} // namespace

void Tensor::Free::operator()(float* p) const {
  if (mapped > 0)
    munmap(p, mapped);
  else
    std::free(p);
}

Tensor::Tensor(Shape s, Margin m) : Tensor(s, m, false) {}

Tensor Tensor::apart(Shape s, Margin m) { return {s, m, true}; }

Tensor::Tensor(Shape s, Margin m, bool apart) : shape_(s), margin_(m) {
  stride_y_ = (s.x + m.x_lo + m.x_hi) * s.c;
  stride_t_ = (s.y + m.y_lo + m.y_hi) * stride_y_;
  stride_b_ = (s.t + m.t_lo + m.t_hi) * stride_t_;
  size_ = static_cast<std::size_t>(s.b * stride_b_);
  constexpr std::size_t alignment = 64; // a cache line and the widest vector
  const std::size_t bytes = (size_ * sizeof(float) + alignment) / alignment * alignment;
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
  if (apart && bytes >= large) {
    const std::size_t pages = (bytes + huge_page - 1) / huge_page * huge_page;
    data_ = {map(pages), Free(pages)};
  } else {
    data_.reset(static_cast<float*>(std::aligned_alloc(alignment, bytes)));
    if (!data_) throw std::bad_alloc();
  }
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
