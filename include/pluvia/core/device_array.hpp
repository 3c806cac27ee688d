#pragma once
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// Owns plain values in the accelerator's memory. Move-only.
template <class T> class DeviceArray {
public:
  DeviceArray() = default;
  explicit DeviceArray(std::size_t size)
      : data_(static_cast<T*>(accelerator::allocate(size * sizeof(T)))), size_(size) {}
  template <class Range>
    requires requires(const Range& values) { std::data(values); }
  explicit DeviceArray(const Range& values) : DeviceArray(std::size(values)) {
    accelerator::to_accelerator(data_, std::data(values), size_ * sizeof(T));
  }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() {
    if (data_) accelerator::release(data_);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> values() const {
    std::vector<T> out(size_);
    accelerator::to_host(out.data(), data_, size_ * sizeof(T));
    return out;
  }

private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace pluvia
