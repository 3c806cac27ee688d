#pragma once
#include <cstddef>
#include <span>
#include <utility>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// Owns plain values in memory of the host that the accelerator copies from and to by itself. Undefined when
/// made. Move-only.
template <class T> class PinnedArray {
public:
  PinnedArray() = default;
  explicit PinnedArray(std::size_t size)
      : data_(static_cast<T*>(accelerator::allocate_pinned(size * sizeof(T)))), size_(size) {}
  PinnedArray(PinnedArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedArray& operator=(PinnedArray&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }
  ~PinnedArray() {
    if (data_) accelerator::release_pinned(data_);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace pluvia
