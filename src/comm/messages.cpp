#include "pluvia/comm/messages.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

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

int test(std::vector<MPI_Request>& requests, int& all) {
  return MPI_Testall(static_cast<int>(requests.size()), requests.data(), &all, MPI_STATUSES_IGNORE);
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

bool all_done(std::vector<MPI_Request>& requests) {
  int all = 0;
  mpi_check(test(requests, all), "MPI_Testall");
  return all != 0;
}

void wait_for(std::vector<MPI_Request>& requests) {
  mpi_check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
            "MPI_Waitall");
  requests.clear();
}

bool done_in_time(std::vector<MPI_Request>& requests) {
  using namespace std::chrono_literals;
  constexpr auto patience = 2s; // ranks that fail together unwind within milliseconds of each other
  const auto start = std::chrono::steady_clock::now();
  for (int all = 0; test(requests, all) == MPI_SUCCESS && all == 0; std::this_thread::sleep_for(20us))
    if (std::chrono::steady_clock::now() - start > patience) return false;
  return true;
}

} // namespace pluvia
