#include "pluvia/comm/process_grid.hpp"

#include <string>

#include "pluvia/core/error.hpp"

namespace pluvia {

ProcessGrid make_process_grid(const Communicator& world, int replicas, int stages, int tensor) {
  const auto require_multiple = [&](int n, const char* what, const std::string& why) {
    if (world.size() % n != 0)
      fail(ExitCode::usage, std::to_string(world.size()) + " ranks cannot be shared out over the " + what,
           why, "Start a multiple of " + std::to_string(n) + " ranks.");
  };
  std::string why = "parallel.replicas is " + std::to_string(replicas);
  require_multiple(replicas, "replicas", why);
  why += ", parallel.stages " + std::to_string(stages);
  require_multiple(replicas * stages, "stages", why);
  why += ", parallel.tensor " + std::to_string(tensor);
  require_multiple(replicas * stages * tensor, "shares of the channels", why);
  const int places = world.size() / (replicas * stages * tensor); // tiles and parts of the frames
  const int member = world.rank() % tensor, place = world.rank() / tensor % places,
            group = world.rank() / tensor / places, replica = group / stages;
  return {world.split(group * tensor + member, world.rank()),
          world.split((replica * places + place) * tensor + member, world.rank()),
          world.split(group * places + place, world.rank()), replica, replicas};
}

} // namespace pluvia
