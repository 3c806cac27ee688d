#include "pluvia/comm/mail.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "pluvia/comm/messages.hpp"

namespace pluvia {

namespace {

/// Has all arrived, or left?
int test(std::vector<MPI_Request>& requests, int& all) {
  return MPI_Testall(static_cast<int>(requests.size()), requests.data(), &all, MPI_STATUSES_IGNORE);
}
void wait(std::vector<MPI_Request>& requests) {
  mpi_check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
            "MPI_Waitall");
}

} // namespace

Mail::~Mail() {
  using namespace std::chrono_literals;
  for (Incoming& in : incoming_)
    for (MPI_Request& request : in.requests) {
      MPI_Cancel(&request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
  constexpr auto patience = 2s; // ranks that fail together unwind within milliseconds of each other
  const auto start = std::chrono::steady_clock::now();
  for (Outgoing& out : outgoing_) {
    int gone = 0;
    while (test(out.requests, gone) == MPI_SUCCESS && gone == 0) {
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
    mpi_check(test(out.requests, gone), "MPI_Testall");
    return gone != 0;
  });
  Outgoing& out = outgoing_.emplace_back(std::vector<MPI_Request>{}, std::move(owner));
  start_send(comm_, values, peer, tag, out.requests);
}

void Mail::expect(int peer, int tag, std::span<float> values) {
  Incoming& in = incoming_.emplace_back(peer, tag, std::vector<MPI_Request>{});
  start_receive(comm_, values, peer, tag, in.requests);
}

void Mail::await(int peer, int tag) {
  const auto found =
      std::ranges::find_if(incoming_, [&](const Incoming& in) { return in.peer == peer && in.tag == tag; });
  wait(found->requests);
  incoming_.erase(found);
}

void Mail::finish() {
  for (Outgoing& out : outgoing_) wait(out.requests);
  outgoing_.clear();
}

} // namespace pluvia
