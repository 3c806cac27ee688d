#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace pluvia {

/// A mutex that the same thread may lock again and that serves threads in the order in which they came, so
/// that a thread that reads frame after frame does not keep a collective write waiting on all ranks.
class FairMutex {
public:
  void lock();
  void unlock();

private:
  std::mutex state_;
  std::condition_variable turn_;
  std::uint64_t next_ticket_ = 0, serving_ = 0;
  std::thread::id owner_;
  int depth_ = 0;
};

/// Held around every NetCDF and HDF5 call of the process, because the parallel HDF5 library is not
/// thread-safe. Reading from another thread is safe beside a collective write: a reader never waits for
/// another rank.
FairMutex& library_lock();

/// Holds library_lock for a scope.
using LibraryGuard = std::scoped_lock<FairMutex>;

} // namespace pluvia
