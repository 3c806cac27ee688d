#include "pluvia/io/glob.hpp"

#include <set>

#include <glob.h>

#include "pluvia/core/error.hpp"

namespace pluvia {

std::vector<std::string> matching_files(const std::vector<std::string>& patterns, const std::string& key) {
  std::set<std::string> files;
  for (const std::string& pattern : patterns) {
    glob_t found{};
    const int status = ::glob(pattern.c_str(), 0, nullptr, &found);
    if (status == 0) files.insert(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    if (status != 0)
      fail(ExitCode::usage, "No file matches " + pattern, {},
           "Check " + key + "; relative names start at the working folder.");
  }
  if (files.empty()) fail(ExitCode::usage, key + " names no file", {}, "Give a file, a list or a glob.");
  return {files.begin(), files.end()};
}

} // namespace pluvia
