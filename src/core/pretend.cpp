// The accelerator of programs built without CUDA.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "pinned_pool.hpp"
#include "pluvia/core/device.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/launch.hpp"

namespace pluvia::accelerator {

namespace {

constexpr std::size_t page = 4096, huge = std::size_t{2} << 20;

using Task = std::function<void()>;
using Blocks = std::map<std::size_t, std::vector<std::byte*>>; ///< by size

} // namespace

struct Recording::Parts {
  std::vector<Task> tasks;
  Blocks spare;                ///< nobody else gets what a recording will write again
  std::set<std::byte*> living; ///< allocated and not released yet
  bool released_others = false;
  ~Parts();
};

namespace {

/// Address space whose pages nobody may touch but the work that is asked for, which is done when somebody
/// waits for it and not before: whoever forgets to wait, or lets go too early of what a copy reads, is found.
/// Like a GPU's, there is one for a process.
class Arena {
public:
  void* allocate(std::size_t bytes) {
    const std::size_t size = (bytes + page) / page * page; // one byte at least, so that addresses differ
    auto& spare = (recording_ ? recording_->spare : spare_)[size];
    std::byte* memory = nullptr;
    if (spare.empty()) {
      if (!base_) reserve();
      if (top_ + size > capacity)
        fail(ExitCode::failed, "The pretend accelerator is full",
             "it holds " + std::to_string(capacity >> 30) + " GiB",
             "It is for tests: use fewer cells, or the processor.");
      memory = base_ + top_;
      top_ += size;
    } else {
      memory = spare.back();
      spare.pop_back();
    }
    held_ += size;
    peak_ = std::max(peak_, held_);
    sizes_[memory] = size;
    if (recording_) recording_->living.insert(memory);
    // With what is no number, so that a kernel that leaves something out is found.
    ask([memory, size] { std::memset(memory, 0xff, size); });
    return memory;
  }
  void release(std::byte* memory) noexcept {
    const auto found = sizes_.find(memory);
    if (found == sizes_.end()) return;
    held_ -= found->second;
    if (recording_ && recording_->living.erase(memory) == 0) recording_->released_others = true;
    (recording_ ? recording_->spare : spare_)[found->second].push_back(memory);
    sizes_.erase(found);
  }
  void ask(Task task) {
    if (recording_)
      recording_->tasks.push_back(std::move(task));
    else
      queue_.push_back(std::move(task)), ++asked_;
  }
  /// Does all up to the n-th that was ever asked for.
  void work(std::uint64_t n) {
    if (done_ >= n) return;
    protect(PROT_READ | PROT_WRITE);
    for (; done_ < n; ++done_) {
      queue_.front()();
      queue_.pop_front();
    }
    protect(PROT_NONE);
  }
  /// Does the task as soon as the n-th that was ever asked for is done: now, when it is.
  void follow(std::uint64_t n, Task task) {
    if (n > done_) {
      Task& last = queue_[n - done_ - 1];
      last = [before = std::move(last), task = std::move(task)] { before(), task(); };
      return;
    }
    protect(PROT_READ | PROT_WRITE);
    task();
    protect(PROT_NONE);
  }
  std::uint64_t asked() const { return asked_; }
  std::size_t peak() const { return peak_; }
  Recording::Parts* recording() const { return recording_; }
  void record(Recording::Parts* into) { recording_ = into; }
  void take_back(const Blocks& blocks) {
    for (const auto& [size, memory] : blocks)
      spare_[size].insert(spare_[size].end(), memory.begin(), memory.end());
  }

private:
  static constexpr std::size_t capacity = std::size_t{16} << 30;
  void reserve() {
    void* const at =
        mmap(nullptr, capacity + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
      fail(ExitCode::failed, "No address space for the pretend accelerator", std::strerror(errno),
           "Raise the limit on address space (ulimit -v).");
    // Huge pages are opened and closed many times faster; they begin at multiples of their size.
    base_ = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(at) + huge - 1) / huge * huge);
    madvise(base_, capacity, MADV_HUGEPAGE);
  }
  void protect(int access) {
    if (top_ > 0 && mprotect(base_, (top_ + huge - 1) / huge * huge, access) != 0)
      fail(ExitCode::failed, "The pretend accelerator cannot be opened or closed", std::strerror(errno), "");
  }
  std::byte* base_ = nullptr;
  std::size_t top_ = 0, held_ = 0, peak_ = 0;
  std::map<std::byte*, std::size_t> sizes_;
  Blocks spare_;
  std::deque<Task> queue_;
  std::uint64_t asked_ = 0, done_ = 0;
  Recording::Parts* recording_ = nullptr;
};

Arena& arena() {
  static Arena one;
  return one;
}

PinnedPool& pinned() {
  static PinnedPool one;
  return one;
}

void refuse_in_recording() {
  if (arena().recording())
    fail(ExitCode::failed, "Work for the accelerator cannot be recorded", "it waits for the host",
         "Use train.graph=false.");
}

} // namespace

Recording::Parts::~Parts() {
  arena().take_back(spare);
}

void ask(Task work) {
  arena().ask(std::move(work));
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
  arena().release(static_cast<std::byte*>(memory));
}
void to_accelerator(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  const auto* const first = static_cast<const std::byte*>(from);
  ask([to, values = std::vector<std::byte>(first, first + bytes)] {
    std::memcpy(to, values.data(), values.size());
  });
}
void to_host(void* to, const void* from, std::size_t bytes) {
  copy(to, from, bytes);
  wait();
}
void copy(void* to, const void* from, std::size_t bytes) {
  ask([to, from, bytes] { std::memcpy(to, from, bytes); });
}
void wait() {
  refuse_in_recording();
  arena().work(arena().asked());
  pinned().settle();
}

void* allocate_pinned(std::size_t bytes) {
  return pinned().take(bytes, [](std::size_t size) { return std::aligned_alloc(page, size); });
}
void release_pinned(void* memory) noexcept {
  pinned().give(memory);
}
void start_to_accelerator(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  copy(to, from, bytes);
}
void start_to_host(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  std::memset(to, 0xff, bytes); // nothing has arrived yet
  copy(to, from, bytes);
}

struct Mark::Parts {
  std::uint64_t place = 0;
  std::shared_ptr<Task> beside; ///< a copy behind it that is still to be made
};
Mark::Mark() : parts_(new Parts) {}
Mark::~Mark() = default;
void Mark::set() {
  refuse_in_recording();
  parts_->place = arena().asked();
  parts_->beside.reset();
}
void Mark::wait() const {
  refuse_in_recording();
  arena().work(parts_->place);
  if (parts_->beside) arena().follow(parts_->place, [copy = parts_->beside] { (*copy)(); });
}
void Mark::hold_rest() const {
  refuse_in_recording();
  if (parts_->beside) ask([copy = parts_->beside] { (*copy)(); });
}

void start_beside(void* to, const void* from, std::size_t bytes, const Mark& after, Mark& arrived) {
  refuse_in_recording();
  // What lay there is lost as early as may be, and what is to lie there comes as late.
  arena().follow(after.parts_->place, [to, bytes] { std::memset(to, 0xff, bytes); });
  arrived.parts_->place = after.parts_->place;
  arrived.parts_->beside = std::make_shared<Task>([to, from, bytes, made = false]() mutable {
    if (!std::exchange(made, true)) std::memcpy(to, from, bytes);
  });
}

struct Stamp::Parts {
  std::uint64_t place = 0;
  std::chrono::steady_clock::time_point passed;
};
Stamp::Stamp() : parts_(new Parts) {
  refuse_in_recording();
  ask([parts = parts_] { parts->passed = std::chrono::steady_clock::now(); });
  parts_->place = arena().asked();
}
double Stamp::since(const Stamp& earlier) const {
  refuse_in_recording();
  arena().work(parts_->place);
  return std::chrono::duration<double>(parts_->passed - earlier.parts_->passed).count();
}

Recording::Recording(const std::function<void()>& work) : parts_(new Parts) {
  refuse_in_recording();
  arena().record(parts_.get());
  const struct End {
    ~End() { arena().record(nullptr); }
  } end;
  work();
  if (!parts_->living.empty() || parts_->released_others)
    fail(ExitCode::failed, "Work for the accelerator cannot be recorded",
         parts_->released_others ? "it releases memory that was there before" : "it keeps memory",
         "Use train.graph=false.");
}
Recording::~Recording() = default;
void Recording::replay() {
  refuse_in_recording();
  ask([parts = parts_] {
    for (const Task& task : parts->tasks) task();
  });
}

std::size_t peak_bytes() {
  return arena().peak();
}

} // namespace pluvia::accelerator
