#include "commands.hpp"

#include "pluvia/train/trainer.hpp"

namespace pluvia::commands {

ExitCode train(const Communicator& world, const Settings& settings, const Log& log) {
  return run_training(world, settings, log) == TrainOutcome::finished ? ExitCode::done : ExitCode::requeue;
}

} // namespace pluvia::commands
