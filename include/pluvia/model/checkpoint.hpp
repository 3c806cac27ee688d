#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/span.hpp"

namespace pluvia {

/// A named global array: tables, weights, what an optimiser keeps. Every rank holds it whole, or a run of its
/// values in row-major order.
struct NamedArray {
  std::vector<std::int64_t> extents;
  std::vector<float> values;
  std::optional<Span> run = {}; ///< nothing: all
};

/// A field over the whole grid of which each rank holds its tile [outer x height x width x inner], row-major.
struct TiledField {
  std::int64_t outer = 1, inner = 1;
  std::vector<float> values; ///< of this rank's tile
};

/// What a trained model is on disk. Fields are distributed; arrays the same on all ranks, but for those of
/// which each has a run: together all of it.
struct Checkpoint {
  std::int64_t step = 0;
  std::string configuration;                ///< resolved YAML
  std::map<std::string, std::string> texts; ///< anything else as text (JSON where structured)
  std::map<std::string, NamedArray> arrays; ///< "weights/NAME", "average/NAME", "adam_first/NAME", ...
  std::map<std::string, TiledField> fields; ///< "climatology", ...
};

/// Writes one HDF5 file from all ranks: temporary name, flush, SHA-256 of the whole file into its user block,
/// rename. `domain` is the whole grid, `tile` this rank's part, empty where another rank holds the same.
/// Collective. Returns "sha256:...".
std::string write_checkpoint(const Communicator& comm, const std::string& path, const Checkpoint& checkpoint,
                             const Rect& domain, const Rect& tile);

/// Whether a file begins as a checkpoint does; nothing is checked. Local.
bool is_checkpoint(const std::string& path);

/// Compares every byte of a file with its digest. Local. Throws a data Error as read_checkpoint does.
void check_checkpoint(const std::string& path);

/// The run of an array that a rank wants, by its name; nothing: all of it. It gets what there is of it.
using WantedRun = std::function<std::optional<Span>(const std::string& array)>;

/// Reads a checkpoint after checking its digest; fields are read for `tile` only (any tiling will do), and of
/// arrays what is wanted. `digest` receives "sha256:...". Collective. Throws a data Error when the file is
/// missing, torn or changed.
Checkpoint read_checkpoint(const Communicator& comm, const std::string& path, const Rect& tile,
                           std::string* digest = nullptr, const WantedRun& wanted = {});

/// Everything but the fields, without a grid. Collective.
Checkpoint read_checkpoint_header(const Communicator& comm, const std::string& path,
                                  std::string* digest = nullptr);

} // namespace pluvia
