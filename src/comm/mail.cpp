#include "pluvia/comm/mail.hpp"

#include <algorithm>
#include <utility>

#include "pluvia/comm/messages.hpp"

namespace pluvia {

Mail::~Mail() {
  for (Incoming& in : incoming_)
    for (MPI_Request& request : in.requests) {
      MPI_Cancel(&request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
  for (Outgoing& out : outgoing_)
    if (!done_in_time(out.requests)) {
      // The job is about to end; until then MPI may read here.
      static_cast<void>(new std::vector(std::move(outgoing_)));
      return;
    }
}

void Mail::send(int peer, int tag, std::span<const float> values, std::shared_ptr<const void> owner) {
  std::erase_if(outgoing_, [](Outgoing& out) { return all_done(out.requests); });
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
  wait_for(found->requests);
  incoming_.erase(found);
}

void Mail::finish() {
  for (Outgoing& out : outgoing_) wait_for(out.requests);
  outgoing_.clear();
}

} // namespace pluvia
