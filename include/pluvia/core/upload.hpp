#pragma once
#include <array>
#include <cstddef>
#include <span>

#include "pluvia/core/pinned_array.hpp"

namespace pluvia {

/// Fills an array in the accelerator's memory from the host again and again, without waiting for the
/// accelerator: while it still reads what was sent, the next is written beside.
template <class T> class Upload {
public:
  /// `to` must outlive it.
  Upload(T* to, std::size_t size) : to_(to), halves_{Half(size), Half(size)} {}

  /// What to fill and send next. Waits until what was sent the time before last has been read.
  std::span<T> next() {
    Half& half = halves_[turn_];
    half.read.wait();
    return {half.values.data(), half.values.size()};
  }
  void send() {
    Half& half = halves_[turn_];
    accelerator::start_to_accelerator(to_, half.values.data(), half.values.size() * sizeof(T));
    half.read.set();
    turn_ = 1 - turn_;
  }

private:
  struct Half {
    explicit Half(std::size_t size) : values(size) {}
    PinnedArray<T> values;
    accelerator::Mark read;
  };
  T* to_;
  std::array<Half, 2> halves_;
  std::size_t turn_ = 0;
};

} // namespace pluvia
