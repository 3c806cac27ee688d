#pragma once
#include <cstddef>
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
/// run on the processor, and its memory faults when anything but a kernel or a copy below touches it, so that
/// the paths of a GPU can be tested where there is none. All calls are Local; work on the accelerator is done
/// in the order in which it was asked for, and copies to the host have arrived when they return. Throws Error
/// with the reason (ExitCode::failed) when the accelerator refuses.
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
void to_accelerator(void* to, const void* from, std::size_t bytes);
void to_host(void* to, const void* from, std::size_t bytes);
/// Within the accelerator's memory.
void copy(void* to, const void* from, std::size_t bytes);
/// Returns when all work is done.
void wait();

/// Most bytes held at once so far.
std::size_t peak_bytes();

} // namespace accelerator
} // namespace pluvia
