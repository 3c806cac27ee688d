// Links between the accelerators of programs built without CUDA.
#include <algorithm>
#include <list>
#include <utility>

#include "pluvia/comm/device_link.hpp"
#include "pluvia/comm/messages.hpp"
#include "pluvia/comm/pending_sums.hpp"
#include "pluvia/core/device.hpp"

namespace pluvia {

namespace {

constexpr int tag = 13;

} // namespace

struct DeviceLink::Parts {
  struct Arrival {
    Message message;
    std::vector<float> data;
  };
  const Communicator& comm;
  std::vector<MPI_Request> requests = {};
  std::vector<Message> leaving = {}; ///< read when they are waited for and not before: they must stay
  std::list<Arrival> arriving = {};
  PendingSums<float> sums = PendingSums<float>(comm);
  std::vector<std::vector<std::span<float>>> summed = {}; ///< for each of them
};

bool DeviceLink::possible(const Communicator& comm) {
  return comm.size() > 1;
}

DeviceLink::DeviceLink(const Communicator& comm) : parts_(new Parts{comm}) {}

DeviceLink::~DeviceLink() {
  MPI_Waitall(static_cast<int>(parts_->requests.size()), parts_->requests.data(), MPI_STATUSES_IGNORE);
}

void DeviceLink::start(const std::vector<Message>& outgoing, const std::vector<Message>& incoming) {
  for (const Message& m : incoming) {
    auto& data = parts_->arriving.emplace_back(m, std::vector<float>(m.size)).data;
    start_receive(parts_->comm, data, m.peer, tag, parts_->requests);
  }
  parts_->leaving.insert(parts_->leaving.end(), outgoing.begin(), outgoing.end());
}

void DeviceLink::start_sums(const std::vector<std::span<float>>& arrays) {
  std::size_t size = 0;
  for (const auto a : arrays) size += a.size();
  std::vector<float> share(size);
  float* to = share.data();
  for (const auto a : arrays) {
    accelerator::to_host(to, a.data(), a.size_bytes());
    to += a.size();
  }
  parts_->sums.start(std::move(share));
  parts_->summed.push_back(arrays);
}

void DeviceLink::start_broadcasts(const std::vector<Message>& arrays) {
  for (const Message& m : arrays) {
    std::vector<float> values(m.size);
    const std::size_t bytes = m.size * sizeof(float);
    if (m.peer == parts_->comm.rank()) accelerator::to_host(values.data(), m.data, bytes);
    parts_->comm.broadcast(std::as_writable_bytes(std::span(values)), m.peer);
    if (m.peer != parts_->comm.rank()) accelerator::to_accelerator(m.data, values.data(), bytes);
  }
}

void DeviceLink::finish() {
  std::list<std::vector<float>> sent;
  for (const Message& m : parts_->leaving) {
    auto& data = sent.emplace_back(m.size);
    accelerator::to_host(data.data(), m.data, m.size * sizeof(float));
    start_send(parts_->comm, data, m.peer, tag, parts_->requests);
  }
  wait_for(parts_->requests);
  for (const Parts::Arrival& a : parts_->arriving)
    accelerator::to_accelerator(a.message.data, a.data.data(), a.data.size() * sizeof(float));
  parts_->leaving.clear(), parts_->arriving.clear();
  const std::vector<std::vector<float>> sums = parts_->sums.finish();
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const float* from = sums[i].data();
    for (const auto a : parts_->summed[i]) {
      accelerator::to_accelerator(a.data(), from, a.size_bytes());
      from += a.size();
    }
  }
  parts_->summed.clear();
}

} // namespace pluvia
