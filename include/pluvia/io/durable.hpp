#pragma once
#include <cstddef>
#include <string>

namespace pluvia {

// How a file comes into being whole or not at all: written under a temporary name beside it, flushed,
// renamed.

/// Makes the folder of `path` and an empty, writable file `part`. Local. Throws a usage Error when it cannot.
void prepare_part(const std::string& path, const std::string& part);
/// Reserves `bytes` beyond the end of `part` where its file system can do so. Throws a failed Error when
/// there is less left, or less than a quota allows. Local.
void require_room(const std::string& part, std::size_t bytes);
/// The same by asking for the space and giving it back, which finds limits of file sizes too.
/// Empties `part`. HDF5 may not end in good order once a write has failed, so this is asked before. Local.
void try_room(const std::string& part, std::size_t bytes);
/// Gives back what `part` does not need, flushes it to disk and renames it to `path`. Local. Throws a failed
/// Error when it cannot.
void publish(const std::string& part, const std::string& path);
/// All three for a text. Local. Throws as they do.
void write_whole(const std::string& path, const std::string& text);

} // namespace pluvia
