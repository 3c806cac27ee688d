#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

namespace pluvia {

/// What the program tells the shell and the batch system.
enum class ExitCode : int {
  done = 0,
  failed = 1,  ///< an error inside the program or its libraries
  usage = 2,   ///< bad configuration or command line
  data = 3,    ///< bad or insufficient data
  requeue = 75 ///< stopped on request after saving
};

/// An error a user can act on: "PROBLEM (WHY) SUGGESTION", and the exit code it ends the program with.
class Error : public std::runtime_error {
public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

private:
  ExitCode code_;
};

/// Throws Error with "problem (why) suggestion", or "problem. suggestion"; empty parts are left out. Local.
[[noreturn]] void fail(ExitCode code, std::string_view problem, std::string_view why = {},
                       std::string_view suggestion = {});

} // namespace pluvia
