#pragma once
#include <array>
#include <cstddef>
#include <span>

#include "pluvia/core/device_array.hpp"
#include "pluvia/core/pinned_array.hpp"

namespace pluvia {

/// Fills an array in the accelerator's memory from the host again and again, without waiting for the
/// accelerator, nor it for the host's memory: what is sent is copied beside while the accelerator works on
/// what was sent before, and then takes its place there.
template <class T> class Upload {
public:
  /// `to` must outlive it.
  Upload(T* to, std::size_t size) : to_(to), beside_(size), halves_{Half(size), Half(size)} { free_.set(); }

  /// What to fill and send next. Waits until what was sent the time before last has been copied.
  std::span<T> next() {
    Half& half = halves_[turn_];
    half.copied.wait();
    return {half.values.data(), half.values.size()};
  }
  /// What is asked for from here on finds it.
  void send() {
    Half& half = halves_[turn_];
    const std::size_t bytes = half.values.size() * sizeof(T);
    accelerator::start_beside(beside_.data(), half.values.data(), bytes, free_, half.copied);
    half.copied.hold_rest();
    accelerator::copy(to_, beside_.data(), bytes);
    free_.set();
    turn_ = 1 - turn_;
  }

private:
  struct Half {
    explicit Half(std::size_t size) : values(size) {}
    PinnedArray<T> values;
    accelerator::Mark copied;
  };
  T* to_;
  DeviceArray<T> beside_;
  accelerator::Mark free_; ///< nobody reads what lies beside
  std::array<Half, 2> halves_;
  std::size_t turn_ = 0;
};

} // namespace pluvia
