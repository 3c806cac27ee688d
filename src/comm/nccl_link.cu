#include <nccl.h>

#include <cstring>
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

} // namespace

struct DeviceLink::Parts {
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr; ///< of high priority, so that messages leave while kernels run
  cudaEvent_t event = nullptr;

  /// What is asked of `later` next comes after what was asked of `earlier`.
  void order(cudaStream_t earlier, cudaStream_t later) const {
    cuda::check(cudaEventRecord(event, earlier), "The order of work on the GPU cannot be noted");
    cuda::check(cudaStreamWaitEvent(later, event), "The order of work on the GPU cannot be noted");
  }
  ~Parts() {
    if (comm && std::uncaught_exceptions() == 0 && cudaStreamSynchronize(stream) == cudaSuccess)
      ncclCommDestroy(comm);
    else if (comm)
      ncclCommAbort(comm); // peers may never come
    if (event) cudaEventDestroy(event);
    if (stream) cudaStreamDestroy(stream);
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
  ncclUniqueId id{};
  together(comm, [&] {
    if (comm.rank() == 0) check(ncclGetUniqueId(&id), "NCCL cannot start");
  });
  comm.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  together(comm, [&] {
    check(ncclCommInitRank(&parts_->comm, comm.size(), id, comm.rank()), "NCCL cannot connect the GPUs");
    int least = 0, greatest = 0;
    cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "The GPU has no priorities");
    cuda::check(cudaStreamCreateWithPriority(&parts_->stream, cudaStreamNonBlocking, greatest),
                "No stream could be made");
    cuda::check(cudaEventCreateWithFlags(&parts_->event, cudaEventDisableTiming), "No event could be made");
  });
}

DeviceLink::~DeviceLink() = default;

void DeviceLink::start(const std::vector<Message>& outgoing, const std::vector<Message>& incoming) {
  parts_->order(cuda::stream(), parts_->stream);
  check(ncclGroupStart(), "Messages between GPUs cannot start");
  for (const Message& m : incoming)
    check(ncclRecv(m.data, m.size, ncclFloat, m.peer, parts_->comm, parts_->stream),
          "A message cannot be received");
  for (const Message& m : outgoing)
    check(ncclSend(m.data, m.size, ncclFloat, m.peer, parts_->comm, parts_->stream),
          "A message cannot be sent");
  check(ncclGroupEnd(), "Messages between GPUs cannot start");
}

void DeviceLink::finish() {
  ncclResult_t status = ncclSuccess;
  check(ncclCommGetAsyncError(parts_->comm, &status), "NCCL does not answer");
  check(status, "Messages between GPUs failed");
  parts_->order(parts_->stream, cuda::stream());
}

} // namespace pluvia
