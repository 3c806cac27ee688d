#pragma once
#include <filesystem>

namespace pluvia {

/// Keeps other processes that ask for the same from a folder: a lock on FOLDER/.lock, which ends with the
/// object, or with the process however that ends. A SLURM job that was queued again takes the folder from its
/// own earlier life, which may hang on a node that the cluster has lost. Move-only.
class FolderLock {
public:
  FolderLock() = default; ///< locks nothing
  /// Makes the folder if need be. Waits a few seconds for a process that is about to end. Throws a usage
  /// Error when another holds the lock or the folder cannot be written.
  explicit FolderLock(std::filesystem::path folder);
  ~FolderLock();
  FolderLock(FolderLock&&) noexcept;
  FolderLock& operator=(FolderLock&&) noexcept;

  /// False on file systems without locks, too.
  bool held() const { return held_; }
  /// Throws a failed Error when a later life of this job has taken the folder.
  void require() const;

private:
  bool is_current() const;
  std::filesystem::path folder_;
  int file_ = -1;
  bool held_ = false;
};

} // namespace pluvia
