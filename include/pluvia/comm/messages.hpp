#pragma once
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

// Starts a message of any length and adds its requests to those to wait for: MPI counts values in an int, so
// a long one travels in several, which keep their order. The values must stay until then. Local.
void start_send(const Communicator& comm, std::span<const float> values, int peer, int tag,
                std::vector<MPI_Request>& requests);
void start_receive(const Communicator& comm, std::span<float> values, int peer, int tag,
                   std::vector<MPI_Request>& requests);

/// Whether all are done; moves on what is not. Local.
bool all_done(std::vector<MPI_Request>& requests);
/// Waits for all and forgets them.
void wait_for(std::vector<MPI_Request>& requests);
/// For destructors after a failure: waits for all, but not for ever, for the peers may never come; false when
/// MPI may still read or write there. Never throws.
bool done_in_time(std::vector<MPI_Request>& requests);

} // namespace pluvia
