#include "pluvia/train/run_folder.hpp"

#include <algorithm>
#include <fstream>
#include <regex>
#include <vector>

#include <fmt/format.h>

#include "pluvia/core/error.hpp"
#include "pluvia/model/checkpoint.hpp"

namespace pluvia {

namespace {

/// Numbered checkpoints, oldest first.
std::vector<std::filesystem::path> numbered(const RunFolder& folder) {
  static const std::regex pattern("checkpoint_[0-9]{8}\\.h5");
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    if (std::regex_match(entry.path().filename().string(), pattern)) out.push_back(entry.path());
  std::ranges::sort(out);
  return out;
}

} // namespace

std::string RunFolder::at_step(std::int64_t step) const {
  return (path / fmt::format("checkpoint_{:08}.h5", step)).string();
}

RunFolder open_run_folder(const Communicator& comm, const std::string& path,
                          const std::string& configuration) {
  RunFolder folder{path};
  together(comm, [&] {
    if (comm.rank() != 0) return;
    std::error_code error;
    std::filesystem::create_directories(folder.path, error);
    std::ofstream out(folder.configuration());
    out << configuration;
    out.flush();
    if (!out)
      fail(ExitCode::failed, "Cannot write " + folder.configuration(), error ? error.message() : "",
           "Check train.output.");
  });
  return folder;
}

std::optional<std::string> latest_checkpoint(const Communicator& comm, const Log& log,
                                             const RunFolder& folder) {
  std::string name;
  together(comm, [&] {
    if (comm.rank() != 0 || !std::filesystem::is_directory(folder.path)) return;
    auto files = numbered(folder);
    std::vector<std::filesystem::path> broken;
    for (; !files.empty() && name.empty(); files.pop_back()) {
      try {
        check_checkpoint(files.back().string());
        name = files.back().string();
      } catch (const Error& error) {
        log.warn(error.what());
        broken.push_back(files.back());
      }
    }
    if (name.empty() && !broken.empty())
      fail(ExitCode::data, "No checkpoint in " + folder.path.string() + " can be used",
           fmt::format("all {} are torn or changed", broken.size()),
           "Bring one back, or leave train.from empty to start anew.");
    for (const auto& file : broken) std::filesystem::rename(file, file.string() + ".broken");
  });
  comm.broadcast(name, 0);
  return name.empty() ? std::nullopt : std::optional(name);
}

void prune_checkpoints(const Communicator& comm, const RunFolder& folder, std::size_t keep) {
  together(comm, [&] {
    if (comm.rank() != 0) return;
    const auto files = numbered(folder);
    for (std::size_t i = 0; i + keep < files.size(); ++i) std::filesystem::remove(files[i]);
  });
}

} // namespace pluvia
