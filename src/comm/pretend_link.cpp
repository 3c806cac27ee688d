// Links between the accelerators of programs built without CUDA.
#include <algorithm>
#include <list>

#include "pluvia/comm/device_link.hpp"
#include "pluvia/comm/messages.hpp"
#include "pluvia/core/device.hpp"

namespace pluvia {

struct DeviceLink::Parts {
  struct Arrival {
    Message message;
    std::vector<float> data;
  };
  const Communicator& comm;
  std::vector<MPI_Request> requests = {};
  std::list<std::vector<float>> leaving = {};
  std::list<Arrival> arriving = {};
};

bool DeviceLink::possible(const Communicator& comm) {
  return comm.size() > 1;
}

DeviceLink::DeviceLink(const Communicator& comm) : parts_(new Parts{comm}) {}

DeviceLink::~DeviceLink() {
  MPI_Waitall(static_cast<int>(parts_->requests.size()), parts_->requests.data(), MPI_STATUSES_IGNORE);
}

void DeviceLink::start(const std::vector<Message>& outgoing, const std::vector<Message>& incoming) {
  constexpr int tag = 13;
  for (const Message& m : incoming) {
    auto& data = parts_->arriving.emplace_back(m, std::vector<float>(m.size)).data;
    start_receive(parts_->comm, data, m.peer, tag, parts_->requests);
  }
  for (const Message& m : outgoing) {
    auto& data = parts_->leaving.emplace_back(m.size);
    accelerator::to_host(data.data(), m.data, m.size * sizeof(float));
    start_send(parts_->comm, data, m.peer, tag, parts_->requests);
  }
}

void DeviceLink::finish() {
  mpi_check(
      MPI_Waitall(static_cast<int>(parts_->requests.size()), parts_->requests.data(), MPI_STATUSES_IGNORE),
      "MPI_Waitall");
  for (const Parts::Arrival& a : parts_->arriving)
    accelerator::to_accelerator(a.message.data, a.data.data(), a.data.size() * sizeof(float));
  parts_->requests.clear(), parts_->leaving.clear(), parts_->arriving.clear();
}

} // namespace pluvia
