// The accelerator of programs built without CUDA.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "pluvia/core/device.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/launch.hpp"

namespace pluvia::accelerator {

namespace {

constexpr std::size_t page = 4096, huge = std::size_t{2} << 20;

/// Address space whose pages nobody may touch while it is closed. Like a GPU's, there is one for a process.
class Arena {
public:
  void* allocate(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const std::size_t size = (bytes + page) / page * page; // one byte at least, so that addresses differ
    held_ += size;
    peak_ = std::max(peak_, held_);
    auto& spare = spare_[size];
    std::byte* memory = nullptr;
    if (spare.empty()) {
      if (!base_) reserve();
      if (top_ + size > capacity)
        fail(ExitCode::failed, "The pretend accelerator is full",
             "it holds " + std::to_string(capacity >> 30) + " GiB",
             "It is for tests: use fewer cells, or the processor.");
      memory = base_ + top_;
      top_ += size;
      if (open_ > 0) protect(PROT_READ | PROT_WRITE);
    } else {
      memory = spare.back();
      spare.pop_back();
    }
    sizes_[memory] = size;
    poison(memory, size);
    return memory;
  }
  void release(void* memory) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(static_cast<std::byte*>(memory));
    if (found == sizes_.end()) return;
    held_ -= found->second;
    spare_[found->second].push_back(found->first);
    sizes_.erase(found);
  }
  void open() {
    const std::lock_guard lock(mutex_);
    if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--open_ == 0) protect(PROT_NONE);
  }
  std::size_t peak() const { return peak_; }

private:
  static constexpr std::size_t capacity = std::size_t{16} << 30;
  void reserve() {
    void* const at = mmap(nullptr, capacity + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
      fail(ExitCode::failed, "No address space for the pretend accelerator", std::strerror(errno),
           "Raise the limit on address space (ulimit -v).");
    // Huge pages are opened and closed many times faster; they begin at multiples of their size.
    base_ = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(at) + huge - 1) / huge * huge);
    madvise(base_, capacity, MADV_HUGEPAGE);
  }
  /// With what is no number, so that a kernel that leaves something out is found.
  void poison(std::byte* memory, std::size_t size) {
    if (open_ == 0) protect(PROT_READ | PROT_WRITE);
    std::memset(memory, 0xff, size);
    if (open_ == 0) protect(PROT_NONE);
  }
  void protect(int access) {
    if (top_ > 0 && mprotect(base_, (top_ + huge - 1) / huge * huge, access) != 0)
      fail(ExitCode::failed, "The pretend accelerator cannot be opened or closed", std::strerror(errno), "");
  }
  std::mutex mutex_;
  std::byte* base_ = nullptr;
  std::size_t top_ = 0, held_ = 0, peak_ = 0;
  int open_ = 0;
  std::map<std::byte*, std::size_t> sizes_;
  std::map<std::size_t, std::vector<std::byte*>> spare_;
};

Arena& arena() {
  static Arena one;
  return one;
}

} // namespace

Opened::Opened() {
  arena().open();
}
Opened::~Opened() {
  arena().close();
}

Kind kind() {
  return Kind::pretend;
}
int count() {
  return 1;
}
void choose(int) {}
std::string name() {
  return "pretend accelerator (this processor)";
}

void* allocate(std::size_t bytes) {
  return arena().allocate(bytes);
}
void release(void* memory) noexcept {
  arena().release(memory);
}
void to_accelerator(void* to, const void* from, std::size_t bytes) {
  copy(to, from, bytes);
}
void to_host(void* to, const void* from, std::size_t bytes) {
  copy(to, from, bytes);
}
void copy(void* to, const void* from, std::size_t bytes) {
  const Opened opened;
  std::memcpy(to, from, bytes);
}
void wait() {}
std::size_t peak_bytes() {
  return arena().peak();
}

} // namespace pluvia::accelerator
