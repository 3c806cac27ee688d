#include "pluvia/comm/process_grid.hpp"

#include <string>

#include "pluvia/core/error.hpp"

namespace pluvia {

ProcessGrid make_process_grid(const Communicator& world, int replicas) {
  if (world.size() % replicas != 0)
    fail(ExitCode::usage, std::to_string(world.size()) + " ranks cannot be shared out over the replicas",
         "parallel.replicas is " + std::to_string(replicas), "Start a multiple of that many ranks.");
  const int ranks = world.size() / replicas, replica = world.rank() / ranks;
  return {world.split(replica, world.rank()), replica, replicas};
}

} // namespace pluvia
