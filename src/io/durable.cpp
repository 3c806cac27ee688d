#include "pluvia/io/durable.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {
/// Closes a file descriptor at the end of a scope.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

std::filesystem::path folder_of(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder;
}

[[noreturn]] void fail_for_room(const std::string& part, const std::string& why) {
  fail(ExitCode::failed, "No room to write " + part, why, "Make room there, or choose another output.");
}
} // namespace

void prepare_part(const std::string& path, const std::string& part) {
  std::error_code trouble;
  std::filesystem::create_directories(folder_of(path), trouble);
  if (std::filesystem::is_directory(path))
    fail(ExitCode::usage, "Cannot write " + path, "it is a folder", "Give the name of a file.");
  const Descriptor file{::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666)};
  if (file.number < 0)
    fail(ExitCode::usage, "Cannot write " + path, std::strerror(errno),
         "Choose another output, or make room there.");
}

void require_room(const std::string& part, std::size_t bytes) {
  const Descriptor file{::open(part.c_str(), O_WRONLY)};
  struct stat now {};
  struct statvfs space {};
  const bool told = ::fstat(file.number, &now) == 0 && ::statvfs(part.c_str(), &space) == 0; // not all tell
  const auto reserved = static_cast<std::size_t>(std::max<off_t>(0, now.st_blocks * 512 - now.st_size));
  const std::size_t left = static_cast<std::size_t>(space.f_bavail) * space.f_frsize + reserved;
  if (told && left < bytes)
    fail_for_room(part, std::to_string(left >> 20) + " MiB left, " + std::to_string((bytes >> 20) + 1) +
                            " MiB may be needed");
  const auto size = static_cast<off_t>(bytes);
  if (::fallocate(file.number, FALLOC_FL_KEEP_SIZE, now.st_size, size) != 0 &&
      (errno == ENOSPC || errno == EDQUOT))
    fail_for_room(part, std::strerror(errno));
}

void try_room(const std::string& part, std::size_t bytes) {
  require_room(part, bytes);
  const Descriptor file{::open(part.c_str(), O_RDWR)};
  // Where a file system cannot reserve any space, nothing more is known before the writing.
  const bool refused = ::fallocate(file.number, 0, 0, static_cast<off_t>(bytes)) != 0;
  if (refused && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
    fail_for_room(part, std::strerror(errno));
  if (::ftruncate(file.number, 0) != 0)
    fail(ExitCode::failed, "Cannot write " + part, std::strerror(errno), "Choose another output.");
}

void publish(const std::string& part, const std::string& path) {
  const auto refuse = [&] {
    fail(ExitCode::failed, "Cannot finish " + path, std::strerror(errno), "Check the space of its folder.");
  };
  const Descriptor file{::open(part.c_str(), O_RDWR)};
  struct stat now {};
  if (file.number < 0 || ::fstat(file.number, &now) != 0) refuse();
  // Only where something was reserved: what others wrote is touched no more than must be.
  if (now.st_blocks * 512 > now.st_size + now.st_blksize && ::ftruncate(file.number, now.st_size) != 0)
    refuse();
  if (::fsync(file.number) != 0) refuse();
  if (std::rename(part.c_str(), path.c_str()) != 0) refuse();
  // The new name itself is durable once the folder is; some file systems cannot flush folders, which is no
  // loss.
  const Descriptor folder{::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY)};
  if (folder.number >= 0) ::fsync(folder.number);
}

void write_whole(const std::string& path, const std::string& text) {
  const std::string part = path + ".part";
  prepare_part(path, part);
  std::ofstream out(part, std::ios::binary);
  out << text;
  out.close();
  if (!out) fail(ExitCode::failed, "Cannot write " + part, "the disk may be full", "Choose another output.");
  publish(part, path);
}

} // namespace pluvia
