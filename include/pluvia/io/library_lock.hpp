#pragma once
#include <mutex>

namespace pluvia {

/// Held around every NetCDF and HDF5 call of the process, because the parallel HDF5 library is not
/// thread-safe. Reading from another thread is safe beside a collective write: a reader never waits for
/// another rank.
std::recursive_mutex& library_lock();

} // namespace pluvia
