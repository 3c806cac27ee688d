#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"

namespace pluvia {

/// The files of one training run. A plain value.
struct RunFolder {
  std::filesystem::path path;
  std::string best() const { return (path / "checkpoint_best.h5").string(); }
  std::string at_step(std::int64_t step) const; ///< checkpoint_NNNNNNNN.h5
  std::string log() const { return (path / "log.jsonl").string(); }
  std::string configuration() const { return (path / "config.yaml").string(); }
};

/// Creates the folder and writes its configuration. Collective; fails on all ranks alike when it cannot.
RunFolder open_run_folder(const Communicator& comm, const std::string& path,
                          const std::string& configuration);

/// The newest checkpoint_NNNNNNNN.h5 that is whole, as rank 0 sees it; none when there is no such file at
/// all. Newer ones that are torn or changed are said and renamed to NAME.broken, so that they are never taken
/// for good ones. Collective. Throws a data Error when there are some, all of them torn or changed.
std::optional<std::string> latest_checkpoint(const Communicator& comm, const Log& log,
                                             const RunFolder& folder);

/// Deletes all but the newest `keep` numbered checkpoints. Collective (rank 0 deletes).
void prune_checkpoints(const Communicator& comm, const RunFolder& folder, std::size_t keep);

} // namespace pluvia
