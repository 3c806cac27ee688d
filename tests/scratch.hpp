// A folder that all ranks of a test share, the place of the real data, and the exit code of what fails.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <string>

#include <unistd.h>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/error.hpp"

namespace pluvia::test {

/// Made on construction, removed on destruction; both collective over the communicator.
class ScratchFolder {
public:
  explicit ScratchFolder(const Communicator& comm) : comm_(comm) {
    path_ = (std::filesystem::temp_directory_path() / ("pluvia_test_" + std::to_string(::getpid()))).string();
    comm_.broadcast(path_, 0);
    if (comm_.rank() == 0) std::filesystem::create_directories(path_);
    comm_.barrier();
  }
  ~ScratchFolder() {
    comm_.barrier();
    if (comm_.rank() == 0) std::filesystem::remove_all(path_);
    comm_.barrier();
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
  const Communicator& comm_;
  std::string path_;
};

/// The folder of real files: PLUVIA_REAL_DATA, or ../shared/data beside the repository; may not exist.
inline std::filesystem::path real_data() {
  if (const char* given = std::getenv("PLUVIA_REAL_DATA")) return given;
  return std::filesystem::path(__FILE__).parent_path() / "../../shared/data";
}

struct Failure {
  ExitCode code = ExitCode::done;
  std::string text;
};
/// How `body` fails; done when it does not.
template <class Body> Failure failure_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

} // namespace pluvia::test
