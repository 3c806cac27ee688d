#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

// Marks functions that kernels call, too.
#ifdef __CUDACC__
#define PLUVIA_ANYWHERE __host__ __device__
#else
#define PLUVIA_ANYWHERE
#endif

namespace pluvia {

/// Where values lie and are worked on.
enum class Device { host, gpu };

/// The one accelerator of this process. A program built without CUDA has a pretend one instead: its kernels
/// run on the processor, as late as they may, and its memory faults when anything but a kernel or a copy
/// below touches it, so that the paths of a GPU can be tested where there is none. All calls are Local; work
/// on the accelerator is done in the order in which it was asked for, but for copies beside, while the host
/// goes on. Throws Error with the reason (ExitCode::failed) when the accelerator refuses.
namespace accelerator {

/// Whether this is a program for GPUs, or has the pretend one.
enum class Kind { pretend, cuda };
Kind kind();
/// How many the node offers: of pretend ones as many as are wanted, 1.
int count();
/// Takes one of them for this process, once, before anything else.
void choose(int index);
std::string name();

void* allocate(std::size_t bytes);
void release(void* memory) noexcept;
/// The host's memory may change when it returns.
void to_accelerator(void* to, const void* from, std::size_t bytes);
/// The values have arrived when it returns: all work is done.
void to_host(void* to, const void* from, std::size_t bytes);
/// Within the accelerator's memory.
void copy(void* to, const void* from, std::size_t bytes);
/// Returns when all work is done.
void wait();

/// Memory of the host that the accelerator copies from and to by itself. What is released is used again when
/// all work that was asked for before is done.
void* allocate_pinned(std::size_t bytes);
void release_pinned(void* memory) noexcept;
/// From and to such memory, without waiting: until the copy is done it must not change, or be read.
void start_to_accelerator(void* to, const void* from, std::size_t bytes);
void start_to_host(void* to, const void* from, std::size_t bytes);

/// A place in the order of work.
class Mark {
public:
  Mark();
  ~Mark();
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  /// After all that was asked for so far.
  void set();
  /// Returns when all before it is done; at once where it was never set.
  void wait() const;
  /// What is asked for from here on waits for it, and the host does not.
  void hold_rest() const;

private:
  friend void start_beside(void* to, const void* from, std::size_t bytes, const Mark& after, Mark& arrived);
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// The same as start_to_accelerator, beside what else is asked for: as soon as all before `after` is done,
/// which therefore must include whatever used the place. Sets `arrived` behind the copy; who reads the place
/// asks for it after arrived.hold_rest(), which must follow.
void start_beside(void* to, const void* from, std::size_t bytes, const Mark& after, Mark& arrived);

/// A place in the order of work that says when it was passed, by the accelerator's own clock.
class Stamp {
public:
  /// After all that was asked for so far.
  Stamp();
  /// Seconds from an earlier one to this. Waits until all before it is done.
  double since(const Stamp& earlier) const;

private:
  struct Parts;
  std::shared_ptr<Parts> parts_;
};

/// Work that was asked for once and can be done again as a whole, for the cost of one call (a CUDA graph).
class Recording {
public:
  /// Notes what `work` asks for, without doing it. It must release all memory that it allocates, and none
  /// that was there before; nothing may pass between it and the host, or wait. Throws Error where it does.
  explicit Recording(const std::function<void()>& work);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  /// Asks for all of it, with the memory it saw then.
  void replay();

  struct Parts;

private:
  std::shared_ptr<Parts> parts_;
};

/// Most bytes held at once so far.
std::size_t peak_bytes();

} // namespace accelerator
} // namespace pluvia
