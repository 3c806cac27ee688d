#include <nccl.h>

#include <cstdlib>
#include <exception>
#include <span>
#include <string>

#include "pluvia/comm/device_link.hpp"
#include "pluvia/core/cuda.hpp"
#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

void check(ncclResult_t status, const char* what) {
  if (status != ncclSuccess && status != ncclInProgress)
    fail(ExitCode::failed, what, std::string("NCCL says: ") + ncclGetErrorString(status),
         "Look at its log (NCCL_DEBUG=INFO), and whether all nodes of the job still run.");
}

/// Of high priority, so that messages leave while kernels run. One for all links: what ranks start in the
/// same order they do in the same order, so that no two links can wait for each other.
cudaStream_t messages() {
  static const cudaStream_t one = [] {
    int least = 0, greatest = 0;
    cudaStream_t made = nullptr;
    cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "The GPU has no priorities");
    cuda::check(cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, greatest),
                "No stream could be made");
    return made;
  }();
  return one;
}

} // namespace

struct DeviceLink::Parts {
  ncclComm_t comm = nullptr;
  cudaEvent_t before = nullptr, after = nullptr; ///< what is started waits for, and what waits for it

  /// Runs calls of NCCL as one, once the work asked for so far is done, beside what is asked for next.
  template <class Calls> void start(Calls&& calls) {
    const char* const failed = "The order of work on the GPU cannot be noted";
    cuda::check(cudaEventRecord(before, cuda::stream()), failed);
    cuda::check(cudaStreamWaitEvent(messages(), before), failed);
    check(ncclGroupStart(), "Messages between GPUs cannot start");
    calls();
    check(ncclGroupEnd(), "Messages between GPUs cannot start");
    cuda::check(cudaEventRecord(after, messages()), failed);
  }
  ~Parts() {
    if (comm && std::uncaught_exceptions() == 0 && cudaStreamSynchronize(messages()) == cudaSuccess)
      ncclCommDestroy(comm);
    else if (comm)
      ncclCommAbort(comm); // peers may never come
    for (cudaEvent_t event : {before, after})
      if (event) cudaEventDestroy(event);
  }
};

bool DeviceLink::possible(const Communicator& comm) {
  if (comm.size() == 1) return false;
  // NCCL wants a GPU for each rank: their addresses on the bus tell them apart within a node.
  int device = 0;
  char address[32] = {};
  cuda::check(cudaGetDevice(&device), "The GPU in use is not known");
  cuda::check(cudaDeviceGetPCIBusId(address, sizeof address, device), "The GPU does not say where it is");
  const Communicator node = comm.split_by_node();
  const auto all = node.all_gather(address);
  std::int64_t shared = 0;
  for (std::size_t i = 0; i < all.size(); ++i)
    shared += all[i] == address && static_cast<int>(i) != node.rank();
  comm.all_reduce(std::span(&shared, 1), Reduce::sum);
  return shared == 0;
}

DeviceLink::DeviceLink(const Communicator& comm) : parts_(new Parts) {
  // The memory of recorded messages belongs to the recording, and cannot be registered.
  setenv("NCCL_GRAPH_REGISTER", "0", 0);
  ncclUniqueId id{};
  together(comm, [&] {
    if (comm.rank() == 0) check(ncclGetUniqueId(&id), "NCCL cannot start");
  });
  comm.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  together(comm, [&] {
    check(ncclCommInitRank(&parts_->comm, comm.size(), id, comm.rank()), "NCCL cannot connect the GPUs");
    for (cudaEvent_t* event : {&parts_->before, &parts_->after})
      cuda::check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "No event could be made");
  });
}

DeviceLink::~DeviceLink() = default;

void DeviceLink::start(const std::vector<Message>& outgoing, const std::vector<Message>& incoming) {
  parts_->start([&] {
    for (const Message& m : incoming)
      check(ncclRecv(m.data, m.size, ncclFloat, m.peer, parts_->comm, messages()),
            "A message cannot be received");
    for (const Message& m : outgoing)
      check(ncclSend(m.data, m.size, ncclFloat, m.peer, parts_->comm, messages()),
            "A message cannot be sent");
  });
}

void DeviceLink::start_sums(const std::vector<std::span<float>>& arrays) {
  parts_->start([&] {
    for (const std::span<float> a : arrays)
      check(ncclAllReduce(a.data(), a.data(), a.size(), ncclFloat, ncclSum, parts_->comm, messages()),
            "GPUs cannot add up");
  });
}

void DeviceLink::start_broadcasts(const std::vector<Message>& arrays) {
  parts_->start([&] {
    for (const Message& m : arrays)
      check(ncclBroadcast(m.data, m.data, m.size, ncclFloat, m.peer, parts_->comm, messages()),
            "GPUs cannot share an array");
  });
}

void DeviceLink::finish() {
  ncclResult_t status = ncclSuccess;
  check(ncclCommGetAsyncError(parts_->comm, &status), "NCCL does not answer");
  check(status, "Messages between GPUs failed");
  cuda::check(cudaStreamWaitEvent(cuda::stream(), parts_->after),
              "The order of work on the GPU cannot be noted");
}

} // namespace pluvia
