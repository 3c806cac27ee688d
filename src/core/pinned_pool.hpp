#pragma once
#include <bit>
#include <cstddef>
#include <map>
#include <vector>

namespace pluvia::accelerator {

/// Keeps pinned memory for the next time: to pin it takes long, and stops the accelerator. Pieces are powers
/// of two, so that few sizes serve many.
class PinnedPool {
public:
  /// make(bytes): memory that is never given back.
  template <class Make> void* take(std::size_t bytes, Make&& make) {
    constexpr std::size_t least = 4096;
    const std::size_t size = std::bit_ceil(bytes < least ? least : bytes);
    auto& spare = spare_[size];
    void* memory = nullptr;
    if (spare.empty()) {
      memory = make(size);
    } else {
      memory = spare.back();
      spare.pop_back();
    }
    sizes_[memory] = size;
    return memory;
  }
  /// The accelerator may still read or write it.
  void give(void* memory) { resting_.push_back(memory); }
  /// All work is done.
  void settle() {
    for (void* memory : resting_) spare_[sizes_[memory]].push_back(memory);
    resting_.clear();
  }

private:
  std::map<void*, std::size_t> sizes_;
  std::map<std::size_t, std::vector<void*>> spare_;
  std::vector<void*> resting_;
};

} // namespace pluvia::accelerator
