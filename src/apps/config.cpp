#include "pluvia/core/config.hpp"

#include <cstdio>

#include "commands.hpp"

namespace pluvia::commands {

ExitCode config(const std::string& section, const Log& log) {
  const std::string reference = key_reference(section); // an unknown section is refused on every rank
  if (log.voice() != Log::Voice::silent) std::fputs(reference.c_str(), stdout);
  return ExitCode::done;
}

} // namespace pluvia::commands
