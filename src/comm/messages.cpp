#include "pluvia/comm/messages.hpp"

#include <algorithm>

namespace pluvia {

namespace {

/// Calls start(values, count, request) for parts that MPI can count.
template <class Value, class Start>
void in_parts(std::span<Value> values, std::vector<MPI_Request>& requests, Start&& start) {
  constexpr std::size_t most = std::size_t{1} << 30;
  for (std::size_t first = 0; first < values.size(); first += most) {
    const auto part = values.subspan(first, std::min(most, values.size() - first));
    start(part.data(), static_cast<int>(part.size()), &requests.emplace_back(MPI_REQUEST_NULL));
  }
}

} // namespace

void start_send(const Communicator& comm, std::span<const float> values, int peer, int tag,
                std::vector<MPI_Request>& requests) {
  in_parts(values, requests, [&](const float* data, int count, MPI_Request* request) {
    mpi_check(MPI_Isend(data, count, MPI_FLOAT, peer, tag, comm.raw(), request), "MPI_Isend");
  });
}

void start_receive(const Communicator& comm, std::span<float> values, int peer, int tag,
                   std::vector<MPI_Request>& requests) {
  in_parts(values, requests, [&](float* data, int count, MPI_Request* request) {
    mpi_check(MPI_Irecv(data, count, MPI_FLOAT, peer, tag, comm.raw(), request), "MPI_Irecv");
  });
}

} // namespace pluvia
