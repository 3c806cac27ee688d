#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/io/grid.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// Where the frames of an archive are: made once by rank 0, the same on every rank. A plain value.
struct ArchiveIndex {
  struct Frame {
    Time time = 0;
    int file = 0;      ///< into files
    long position = 0; ///< along that file's time axis
  };
  std::vector<std::string> files;
  Grid grid;
  std::vector<Frame> frames; ///< ascending in time, no duplicates
  Time step = 0;             ///< the most frequent spacing [s], 0 for a single frame; gaps are missing frames
  std::vector<std::string> variables; ///< on (time, y, x), in every file that has frames
  struct Constant {
    std::string name;
    int file = 0; ///< the first that has it
  };
  std::vector<Constant> constants; ///< fields on (y, x): land, terrain
};

/// Opens every file on rank 0, checks that grids agree and times do not repeat, and broadcasts the index.
/// Any CF NetCDF-4 file with variables on (time, lat, lon) or (time, y, x) will do; fields without time may
/// stand beside them or in files of their own. Collective.
/// Errors: usage when nothing matches or a file cannot be opened, data when one is damaged or two contradict
/// each other, when a time repeats, or when a frame cannot be told from its neighbour on the regular spacing.
ArchiveIndex index_archive(const Communicator& comm, const std::vector<std::string>& patterns);

/// The frame nearest to `time` and less than half a step away; nothing when it is missing. Local.
std::optional<std::size_t> find_frame(const ArchiveIndex& index, Time time);

/// Reads one rank's rectangle of an archive, unpacked (scale_factor, add_offset), missing values as NaN.
/// Keeps decoded frames up to a bound. Opens files non-collectively: every member is local, and may be called
/// from one thread at a time.
class ArchiveReader {
public:
  /// cache_bytes bounds the frames kept decoded.
  ArchiveReader(const ArchiveIndex& index, Rect rect, std::size_t cache_bytes);
  ~ArchiveReader();
  ArchiveReader(ArchiveReader&&) noexcept;
  ArchiveReader& operator=(ArchiveReader&&) noexcept;

  const ArchiveIndex& index() const;
  const Rect& rect() const;
  /// The rectangle [height x width], row-major, at the frame matching `time`; empty when that frame is
  /// missing. A constant is the same at any time. The span stays valid until the next call. Throws a data
  /// Error when the file is damaged, a usage Error when the archive has no such variable.
  std::span<const float> read(const std::string& variable, Time time);
  /// Latitude or longitude [degrees] of the rectangle's cells, row-major (2-D coordinates on projected
  /// grids).
  std::vector<float> latitudes() const;
  std::vector<float> longitudes() const;
  /// Bytes of decoded values that were read from files so far, not found among those kept.
  std::int64_t bytes_read() const;

private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// How rain is accumulated (blueprint of the time contract: rain(t) is the mean rate over (t - step, t]).
struct Accumulation {
  std::string variable;      ///< precipitation rate [mm h-1]
  bool labels_start = false; ///< the archive names the start of each interval
  Time window = 6 * 3600;    ///< [s]
};

/// Rain [mm] in (end - window, end] for every cell of the reader's rectangle; NaN where more than 1 of 12
/// slots is missing, otherwise scaled up to the whole window; negative rates are missing. Slots are summed in
/// order of time. Throws a usage Error when the window is not a whole number of steps. Local.
std::vector<float> accumulate(ArchiveReader& reader, const Accumulation& rule, Time end);

} // namespace pluvia
