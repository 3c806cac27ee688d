#include "pluvia/train/run_folder.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <vector>

#include <fmt/format.h>

#include "pluvia/core/config.hpp"
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

/// Whether a run wrote it: every key, and nothing else.
bool is_of_a_run(const std::string& configuration) {
  if (!std::filesystem::is_regular_file(configuration)) return false;
  std::ifstream file(configuration, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  try {
    return resolved_yaml(parse_settings(text, configuration, {})) == text;
  } catch (const Error&) {
    return false;
  }
}

} // namespace

std::string RunFolder::at_step(std::int64_t step) const {
  return (path / fmt::format("checkpoint_{:08}.h5", step)).string();
}

RunFolder open_run_folder(const Communicator& comm, const Log& log, const std::string& path) {
  RunFolder folder{path, {}};
  together(comm, [&] {
    if (comm.rank() != 0) return;
    folder.lock = FolderLock(folder.path);
    if (!folder.lock.held())
      log.warn("The file system of " + path + " has no locks: let no other job write there");
  });
  return folder;
}

void require_own(const Communicator& comm, const RunFolder& folder) {
  together(comm, [&] {
    if (comm.rank() == 0) folder.lock.require();
  });
}

std::optional<std::string> starting_checkpoint(const Communicator& comm, const Log& log,
                                               const RunFolder& folder, const std::string& from) {
  if (from == "latest")
    if (const auto found = latest_checkpoint(comm, log, folder)) return found;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    const auto files = numbered(folder);
    std::error_code none;
    if (!files.empty() && std::filesystem::equivalent(files.back(), from, none)) return;
    if (!files.empty())
      fail(ExitCode::usage, folder.path.string() + " holds the checkpoints of another run",
           "the newest is " + files.back().filename().string(),
           "Go on with train.from=latest, or choose another train.output.");
    if (std::filesystem::exists(folder.best()))
      fail(ExitCode::usage, folder.path.string() + " holds the model of another run",
           "checkpoint_best.h5 alone, from which no training goes on",
           "Take it away, or choose another train.output.");
    if (std::filesystem::exists(folder.configuration()) && !is_of_a_run(folder.configuration()))
      fail(ExitCode::usage, folder.configuration() + " was not written by such a run",
           "training would write over it", "Take it away, or choose another train.output.");
  });
  return from.empty() || from == "latest" ? std::nullopt : std::optional(from);
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
           "Bring one back, or start anew in another train.output.");
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
