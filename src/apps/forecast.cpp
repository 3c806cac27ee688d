#include "commands.hpp"

#include <fmt/format.h>

#include "pluvia/forecast/forecaster.hpp"

namespace pluvia::commands {

ExitCode forecast(const Communicator& world, const Settings& settings, const Log& log) {
  const auto files = run_forecasts(world, settings, log);
  log.info(fmt::format("{} forecasts in {}", files.size(), settings.forecast.output));
  return ExitCode::done;
}

} // namespace pluvia::commands
