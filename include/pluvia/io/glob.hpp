#pragma once
#include <string>
#include <vector>

namespace pluvia {

/// The files that a list of names and globs stands for, sorted, each once. Local. Throws a usage Error, which
/// names the configuration's `key`, when a pattern matches nothing or there is none.
std::vector<std::string> matching_files(const std::vector<std::string>& patterns, const std::string& key);

} // namespace pluvia
