#include "pluvia/comm/mail.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace pluvia {

Mail::~Mail() {
  using namespace std::chrono_literals;
  for (Incoming& in : incoming_) {
    MPI_Cancel(&in.request);
    MPI_Wait(&in.request, MPI_STATUS_IGNORE);
  }
  constexpr auto patience = 2s; // ranks that fail together unwind within milliseconds of each other
  const auto start = std::chrono::steady_clock::now();
  for (Outgoing& out : outgoing_) {
    int gone = 0;
    while (MPI_Test(&out.request, &gone, MPI_STATUS_IGNORE) == MPI_SUCCESS && gone == 0) {
      if (std::chrono::steady_clock::now() - start > patience) {
        // The job is about to end; until then MPI may read here.
        static_cast<void>(new std::vector(std::move(outgoing_)));
        return;
      }
      std::this_thread::sleep_for(20us);
    }
  }
}

void Mail::send(int peer, int tag, std::span<const float> values, std::shared_ptr<const void> owner) {
  std::erase_if(outgoing_, [](Outgoing& out) {
    int gone = 0;
    mpi_check(MPI_Test(&out.request, &gone, MPI_STATUS_IGNORE), "MPI_Test");
    return gone != 0;
  });
  Outgoing& out = outgoing_.emplace_back(MPI_REQUEST_NULL, std::move(owner));
  mpi_check(MPI_Isend(values.data(), static_cast<int>(values.size()), MPI_FLOAT, peer, tag, comm_.raw(),
                      &out.request),
            "MPI_Isend");
}

void Mail::expect(int peer, int tag, std::span<float> values) {
  Incoming& in = incoming_.emplace_back(peer, tag, MPI_REQUEST_NULL);
  mpi_check(MPI_Irecv(values.data(), static_cast<int>(values.size()), MPI_FLOAT, peer, tag, comm_.raw(),
                      &in.request),
            "MPI_Irecv");
}

void Mail::await(int peer, int tag) {
  const auto found =
      std::ranges::find_if(incoming_, [&](const Incoming& in) { return in.peer == peer && in.tag == tag; });
  mpi_check(MPI_Wait(&found->request, MPI_STATUS_IGNORE), "MPI_Wait");
  incoming_.erase(found);
}

void Mail::finish() {
  for (Outgoing& out : outgoing_) mpi_check(MPI_Wait(&out.request, MPI_STATUS_IGNORE), "MPI_Wait");
  outgoing_.clear();
}

} // namespace pluvia
