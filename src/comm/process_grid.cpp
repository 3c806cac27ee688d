#include "pluvia/comm/process_grid.hpp"

#include <string>

#include "pluvia/core/error.hpp"

namespace pluvia {

ProcessGrid make_process_grid(const Communicator& world, int replicas, int stages) {
  const auto require_multiple = [&](int n, const char* what, const std::string& why) {
    if (world.size() % n != 0)
      fail(ExitCode::usage, std::to_string(world.size()) + " ranks cannot be shared out over the " + what,
           why, "Start a multiple of " + std::to_string(n) + " ranks.");
  };
  const std::string why = "parallel.replicas is " + std::to_string(replicas);
  require_multiple(replicas, "replicas", why);
  require_multiple(replicas * stages, "stages", why + ", parallel.stages " + std::to_string(stages));
  const int ranks = world.size() / (replicas * stages), group = world.rank() / ranks;
  const int replica = group / stages;
  return {world.split(group, world.rank()), world.split(replica * ranks + world.rank() % ranks, world.rank()),
          replica, replicas};
}

} // namespace pluvia
