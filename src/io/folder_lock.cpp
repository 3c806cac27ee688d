#include "pluvia/io/folder_lock.hpp"

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// The holder of a lock, as it stands in the file: a line for people and one for later lives of the job.
struct Holder {
  std::string process, job;
  long starts = 0; ///< of the job before this one
};

Holder myself() {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  return {"process " + std::to_string(::getpid()) + " on " + host, variable("SLURM_JOB_ID"),
          std::atol(variable("SLURM_RESTART_COUNT").c_str())};
}

Holder read_holder(const std::string& path) {
  Holder out;
  std::ifstream file(path);
  std::getline(file, out.process);
  file >> out.job >> out.starts;
  return out;
}

void write_holder(int file, const Holder& holder) {
  const std::string text = holder.process + "\n" + holder.job + " " + std::to_string(holder.starts) + "\n";
  if (::ftruncate(file, 0) == 0) // without a name the lock is as good
      [[maybe_unused]]
    const auto written = ::write(file, text.data(), text.size());
}

} // namespace

FolderLock::FolderLock(std::filesystem::path folder) : folder_(std::move(folder)) {
  const std::string path = (folder_ / ".lock").string();
  const Holder mine = myself();
  std::error_code trouble; // which opening the file meets again
  std::filesystem::create_directories(folder_, trouble);
  using namespace std::chrono_literals;
  constexpr auto patience = 3s; // a killed process may take a while to go
  const auto start = std::chrono::steady_clock::now();
  while (true) {
    // For writing, because network file systems lock nothing else.
    FolderLock attempt;
    attempt.folder_ = folder_;
    attempt.file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (attempt.file_ < 0)
      fail(ExitCode::usage, "Cannot write into " + folder_.string(), std::strerror(errno),
           "Choose another output.");
    if (::flock(attempt.file_, LOCK_EX | LOCK_NB) == 0) {
      if (!attempt.is_current()) continue; // taken from its holder meanwhile
      attempt.held_ = true;
      write_holder(attempt.file_, mine);
      *this = std::move(attempt);
      return;
    }
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return; // no locks here
    const Holder other = read_holder(path);
    if (!mine.job.empty() && mine.job == other.job && mine.starts > other.starts)
      ::unlink(path.c_str()); // the lock stays with the file that the name no longer means
    else if (std::chrono::steady_clock::now() - start > patience)
      fail(ExitCode::usage, "Another job writes into " + folder_.string(), other.process,
           "Wait for it to end, or choose another output.");
    else
      std::this_thread::sleep_for(50ms);
  }
}

void FolderLock::require() const {
  if (held_ && !is_current())
    fail(ExitCode::failed, "Cannot go on in " + folder_.string(), "this job was queued again and runs there",
         "Let that one go on.");
}

bool FolderLock::is_current() const {
  struct stat locked {
  }, named{};
  return ::fstat(file_, &locked) == 0 && ::stat((folder_ / ".lock").c_str(), &named) == 0 &&
         locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

FolderLock::~FolderLock() {
  if (file_ >= 0) ::close(file_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : folder_(std::move(other.folder_)), file_(std::exchange(other.file_, -1)),
      held_(std::exchange(other.held_, false)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(folder_, other.folder_);
  std::swap(file_, other.file_);
  std::swap(held_, other.held_);
  return *this;
}

} // namespace pluvia
