#include "commands.hpp"

#include <fmt/format.h>

#include "pluvia/model/weights_file.hpp"

namespace pluvia::commands {

ExitCode export_weights(const Communicator& world, const std::string& file, const std::string& output,
                        const Log& log) {
  std::string digest;
  const Checkpoint checkpoint = read_checkpoint_header(world, file, &digest);
  together(world, [&] {
    if (world.rank() == 0) write_weights(output, checkpoint, digest);
  });
  log.info(fmt::format("weights of {} ({}) in {}", file, digest, output));
  return ExitCode::done;
}

} // namespace pluvia::commands
