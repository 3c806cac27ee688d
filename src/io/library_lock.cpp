#include "pluvia/io/library_lock.hpp"

namespace pluvia {

std::recursive_mutex& library_lock() {
  static std::recursive_mutex lock;
  return lock;
}

} // namespace pluvia
