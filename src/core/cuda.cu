#include "pluvia/core/cuda.hpp"

#include <string>

#include "pinned_pool.hpp"
#include "pluvia/core/device.hpp"
#include "pluvia/core/error.hpp"

namespace pluvia {

namespace cuda {

namespace {

cudaStream_t make_stream() {
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "No stream could be made");
  // What is released stays at hand for the next allocation.
  cudaMemPool_t pool = nullptr;
  int device = 0;
  check(cudaGetDevice(&device), "The GPU in use is not known");
  check(cudaDeviceGetDefaultMemPool(&pool, device), "The GPU has no memory pool");
  std::uint64_t keep = ~std::uint64_t{0};
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
        "The GPU's memory pool cannot be set up");
  return made;
}

} // namespace

cudaStream_t stream() {
  static const cudaStream_t one = make_stream();
  return one;
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const bool full = status == cudaErrorMemoryAllocation;
  fail(ExitCode::failed, what, std::string("CUDA says: ") + cudaGetErrorString(status),
       full ? "Use more ranks, each with a GPU, or fewer cells."
            : "Look at the driver's log (nvidia-smi, dmesg).");
}

} // namespace cuda

namespace accelerator {

namespace {

PinnedPool& pinned() {
  static PinnedPool one;
  return one;
}

/// While one is under way.
bool& recording() {
  static bool one = false;
  return one;
}
void refuse_in_recording() {
  if (recording())
    fail(ExitCode::failed, "Work for the accelerator cannot be recorded", "it waits for the host",
         "Use train.graph=false.");
}

/// Copies from the host that wait for no kernels have a stream of their own.
cudaStream_t beside() {
  static const cudaStream_t one = [] {
    cudaStream_t made = nullptr;
    cuda::check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "No stream could be made");
    return made;
  }();
  return one;
}

constexpr const char* not_noted = "The order of work on the GPU cannot be noted";

cudaMemPool_t pool() {
  cudaMemPool_t found = nullptr;
  int device = 0;
  cuda::check(cudaGetDevice(&device), "The GPU in use is not known");
  cuda::check(cudaDeviceGetDefaultMemPool(&found, device), "The GPU has no memory pool");
  return found;
}

} // namespace

Kind kind() {
  return Kind::cuda;
}

int count() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

void choose(int index) {
  cuda::check(cudaSetDevice(index), "The GPU cannot be taken");
}

std::string name() {
  int device = 0;
  cudaDeviceProp properties{};
  cuda::check(cudaGetDevice(&device), "The GPU in use is not known");
  cuda::check(cudaGetDeviceProperties(&properties, device), "The GPU does not say what it is");
  return properties.name;
}

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  const auto ask = [&] { return cudaMallocAsync(&memory, bytes > 0 ? bytes : 1, cuda::stream()); };
  cudaError_t status = ask();
  // What recorded work needs stays with it between replays, which other work has to do without, until the GPU
  // is full: the next replay takes it again.
  if (int device = 0;
      status == cudaErrorMemoryAllocation && !recording() && cudaGetDevice(&device) == cudaSuccess) {
    cudaGetLastError();
    wait();
    cuda::check(cudaDeviceGraphMemTrim(device), "The GPU does not take memory back");
    status = ask();
  }
  cuda::check(status, "The GPU gives no memory");
  return memory;
}

void release(void* memory) noexcept {
  if (memory) cudaFreeAsync(memory, cuda::stream());
}

void to_accelerator(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda::stream()),
              "A copy to the GPU failed");
  // The host's memory has been read by now, but where the GPU reads it by itself.
  static const bool by_itself = [] {
    int device = 0, yes = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&yes, cudaDevAttrPageableMemoryAccess, device) == cudaSuccess && yes != 0;
  }();
  if (by_itself) wait();
}

void to_host(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda::stream()),
              "A copy from the GPU failed");
  wait();
}

void copy(void* to, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda::stream()),
              "A copy on the GPU failed");
}

void wait() {
  refuse_in_recording();
  cuda::check(cudaStreamSynchronize(cuda::stream()), "Work on the GPU failed");
  pinned().settle();
}

void* allocate_pinned(std::size_t bytes) {
  return pinned().take(bytes, [](std::size_t size) {
    void* memory = nullptr;
    cuda::check(cudaHostAlloc(&memory, size, cudaHostAllocDefault), "The host's memory cannot be pinned");
    return memory;
  });
}

void release_pinned(void* memory) noexcept {
  pinned().give(memory);
}

void start_to_accelerator(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda::stream()),
              "A copy to the GPU failed");
}

void start_to_host(void* to, const void* from, std::size_t bytes) {
  refuse_in_recording();
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda::stream()),
              "A copy from the GPU failed");
}

struct Mark::Parts {
  cudaEvent_t event = nullptr;
  ~Parts() {
    if (event) cudaEventDestroy(event);
  }
  void set(cudaStream_t stream) {
    refuse_in_recording();
    // Whoever waits sleeps, so that ranks which share cores get on.
    if (!event)
      cuda::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
                  "No event could be made");
    cuda::check(cudaEventRecord(event, stream), not_noted);
  }
  void hold(cudaStream_t stream) const {
    refuse_in_recording();
    if (event) cuda::check(cudaStreamWaitEvent(stream, event), not_noted);
  }
};
Mark::Mark() : parts_(new Parts) {}
Mark::~Mark() = default;

void Mark::set() {
  parts_->set(cuda::stream());
}

void Mark::wait() const {
  refuse_in_recording();
  if (parts_->event) cuda::check(cudaEventSynchronize(parts_->event), "Work on the GPU failed");
}

void Mark::hold_rest() const {
  parts_->hold(cuda::stream());
}

void start_beside(void* to, const void* from, std::size_t bytes, const Mark& after, Mark& arrived) {
  after.parts_->hold(beside());
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, beside()), "A copy to the GPU failed");
  arrived.parts_->set(beside());
}

struct Stamp::Parts {
  cudaEvent_t event = nullptr;
  ~Parts() {
    if (event) cudaEventDestroy(event);
  }
};

Stamp::Stamp() : parts_(new Parts) {
  refuse_in_recording();
  cuda::check(cudaEventCreateWithFlags(&parts_->event, cudaEventBlockingSync), "No event could be made");
  cuda::check(cudaEventRecord(parts_->event, cuda::stream()), not_noted);
}

double Stamp::since(const Stamp& earlier) const {
  refuse_in_recording();
  cuda::check(cudaEventSynchronize(parts_->event), "Work on the GPU failed");
  float milliseconds = 0;
  cuda::check(cudaEventElapsedTime(&milliseconds, earlier.parts_->event, parts_->event),
              "The GPU does not say when work was done");
  return 1e-3 * static_cast<double>(milliseconds);
}

struct Recording::Parts {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  ~Parts() {
    if (ready) cudaGraphExecDestroy(ready);
    if (graph) cudaGraphDestroy(graph);
  }
};

Recording::Recording(const std::function<void()>& work) : parts_(new Parts) {
  // What steps without a recording left in the pool goes back: a recording's memory comes from another.
  wait();
  cuda::check(cudaMemPoolTrimTo(pool(), 0), "The GPU's memory pool cannot be set up");
  cuda::check(cudaStreamBeginCapture(cuda::stream(), cudaStreamCaptureModeThreadLocal),
              "Work for the GPU cannot be recorded");
  recording() = true;
  try {
    work();
  } catch (...) { // the stream must leave the recording, whatever became of it
    recording() = false;
    cudaStreamEndCapture(cuda::stream(), &parts_->graph);
    throw;
  }
  recording() = false;
  cuda::check(cudaStreamEndCapture(cuda::stream(), &parts_->graph), "Work for the GPU cannot be recorded");
  cuda::check(cudaGraphInstantiate(&parts_->ready, parts_->graph, cudaGraphInstantiateFlagUseNodePriority),
              "Work for the GPU cannot be recorded");
}

Recording::~Recording() = default;

void Recording::replay() {
  refuse_in_recording();
  cudaError_t status = cudaGraphLaunch(parts_->ready, cuda::stream());
  if (status == cudaErrorMemoryAllocation) { // other work left its own in the pool
    cudaGetLastError();
    wait();
    cuda::check(cudaMemPoolTrimTo(pool(), 0), "The GPU does not take memory back");
    status = cudaGraphLaunch(parts_->ready, cuda::stream());
  }
  cuda::check(status, "Recorded work did not start");
}

std::size_t peak_bytes() {
  int device = 0;
  std::uint64_t eager = 0, recorded = 0;
  cuda::check(cudaGetDevice(&device), "The GPU in use is not known");
  cuda::check(cudaMemPoolGetAttribute(pool(), cudaMemPoolAttrUsedMemHigh, &eager),
              "The GPU does not say what it holds");
  cuda::check(cudaDeviceGetGraphMemAttribute(device, cudaGraphMemAttrUsedMemHigh, &recorded),
              "The GPU does not say what it holds");
  return eager + recorded;
}

} // namespace accelerator
} // namespace pluvia
