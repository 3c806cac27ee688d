#include "pluvia/io/folder_lock.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

/// Who holds the lock, for whoever is refused.
std::string own_name() {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  return "process " + std::to_string(::getpid()) + " on " + host;
}

std::string first_line(const std::string& path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

} // namespace

FolderLock::FolderLock(const std::filesystem::path& folder) {
  const std::string path = (folder / ".lock").string();
  std::error_code trouble; // which opening the file meets again
  std::filesystem::create_directories(folder, trouble);
  // For writing, because network file systems lock nothing else.
  FolderLock lock;
  lock.file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock.file_ < 0)
    fail(ExitCode::usage, "Cannot write into " + folder.string(), std::strerror(errno),
         "Choose another output.");
  using namespace std::chrono_literals;
  constexpr auto patience = 3s; // a killed process may take a while to go
  const auto start = std::chrono::steady_clock::now();
  while (::flock(lock.file_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) { // no locks here
      *this = std::move(lock);
      return;
    }
    if (std::chrono::steady_clock::now() - start > patience)
      fail(ExitCode::usage, "Another job writes into " + folder.string(), first_line(path),
           "Wait for it to end, or choose another output.");
    std::this_thread::sleep_for(50ms);
  }
  lock.held_ = true;
  const std::string name = own_name() + "\n";
  if (::ftruncate(lock.file_, 0) == 0) // without a name the lock is as good
      [[maybe_unused]]
    const auto written = ::write(lock.file_, name.data(), name.size());
  *this = std::move(lock);
}

FolderLock::~FolderLock() {
  if (file_ >= 0) ::close(file_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : file_(std::exchange(other.file_, -1)), held_(std::exchange(other.held_, false)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(held_, other.held_);
  return *this;
}

} // namespace pluvia
