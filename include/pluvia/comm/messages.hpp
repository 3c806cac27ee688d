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

} // namespace pluvia
