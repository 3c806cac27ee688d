// Loaded before a program of one thread, lets its steady clock stand still while others have the processor:
// operators are timed as on a machine of their own, but for caches and memory.
#include <dlfcn.h>
#include <time.h>

extern "C" int clock_gettime(clockid_t clock, timespec* now) {
  static const auto real = reinterpret_cast<decltype(&clock_gettime)>(dlsym(RTLD_NEXT, "clock_gettime"));
  return real(clock == CLOCK_MONOTONIC ? CLOCK_THREAD_CPUTIME_ID : clock, now);
}
