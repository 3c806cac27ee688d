#pragma once
#include <filesystem>

namespace pluvia {

/// Keeps other processes that ask for the same from a folder: a lock on FOLDER/.lock, which ends with the
/// object, or with the process however that ends. Move-only.
class FolderLock {
public:
  FolderLock() = default; ///< locks nothing
  /// Makes the folder if need be. Waits a few seconds for a process that is about to end. Throws a usage
  /// Error when another holds the lock or the folder cannot be written.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(FolderLock&&) noexcept;
  FolderLock& operator=(FolderLock&&) noexcept;

  /// False on file systems without locks, too.
  bool held() const { return held_; }

private:
  int file_ = -1;
  bool held_ = false;
};

} // namespace pluvia
