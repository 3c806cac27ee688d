#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/io/folder_lock.hpp"

namespace pluvia {

/// The files of one training run.
struct RunFolder {
  std::filesystem::path path;
  FolderLock lock; ///< of rank 0
  std::string best() const { return (path / "checkpoint_best.h5").string(); }
  std::string at_step(std::int64_t step) const; ///< checkpoint_NNNNNNNN.h5
  std::string log() const { return (path / "log.jsonl").string(); }
  std::string configuration() const { return (path / "config.yaml").string(); }
};

/// Creates the folder and keeps other runs out of it for as long as the value lives; where the file system
/// has no locks it says so and goes on. Collective. Throws a usage Error when another run writes it.
RunFolder open_run_folder(const Communicator& comm, const Log& log, const std::string& path);

/// Throws a failed Error when the folder is no longer this run's, because its job was queued again and runs
/// elsewhere. Collective.
void require_own(const Communicator& comm, const RunFolder& folder);

/// The checkpoint that a run with train.from = `from` goes on from; none when it starts anew. Collective.
/// Throws a usage Error when the folder holds checkpoints of which that is not the newest: among those, the
/// run's own would be taken for old ones; or the best model of a run alone, or a config.yaml that no run
/// wrote, which this one would replace.
std::optional<std::string> starting_checkpoint(const Communicator& comm, const Log& log,
                                               const RunFolder& folder, const std::string& from);

/// The newest checkpoint_NNNNNNNN.h5 that is whole, as rank 0 sees it; none when there is no such file at
/// all. Newer ones that are torn or changed are said and renamed to NAME.broken, so that they are never taken
/// for good ones. Collective. Throws a data Error when there are some, all of them torn or changed.
std::optional<std::string> latest_checkpoint(const Communicator& comm, const Log& log,
                                             const RunFolder& folder);

/// Deletes all but the newest `keep` numbered checkpoints. Collective (rank 0 deletes).
void prune_checkpoints(const Communicator& comm, const RunFolder& folder, std::size_t keep);

} // namespace pluvia
