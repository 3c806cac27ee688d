#pragma once
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/data/cell_means.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// The channels of an archive made from raw files, and what they hold.
using Channels = std::map<std::string, Quantity>;

/// A channel's variables in an archive, first that of the mean: NAME_mean and NAME_min of brightness
/// temperatures, NAME of precipitation.
std::vector<std::string> variables_of(const std::string& channel, Quantity quantity);

/// All there is at one time of an archive, or a part of it.
struct ArchiveEntry {
  std::map<std::string, double> exact_times;        ///< by channel, as its raw file names them [s since 1970]
  std::map<std::string, std::vector<float>> fields; ///< by variable, [ny x nx], missing as NaN
};

/// An archive that an earlier run made. Move-only.
class PreparedArchive {
public:
  /// Local. Throws a usage Error when the file is no such archive or has another grid or spacing [s].
  PreparedArchive(const std::string& path, const CellGrid& grid, Time step);

  const Channels& channels() const { return channels_; }
  std::vector<Time> times() const;
  /// Channels that each time has.
  std::map<Time, std::set<std::string>> present() const;
  /// Everything at a time; nothing at a time that the archive has not. Local.
  ArchiveEntry read(Time time) const;

private:
  NcReader file_;
  CellGrid grid_;
  Channels channels_;
  std::map<Time, std::size_t> positions_;
  std::map<Time, std::map<std::string, double>> exact_times_;
};

/// Writes an archive entry by entry, in order of time. Every member is collective.
class PreparedArchiveWriter {
public:
  /// Throws a usage Error when the file cannot be created.
  PreparedArchiveWriter(const Communicator& comm, const std::string& path, const CellGrid& grid,
                        const Channels& channels, Time step);

  /// Appends one entry of each rank, of which rank r's is that of times[r]; ranks beyond the end of `times`
  /// give empty ones. Entries without a channel are left out.
  void append(const std::vector<Time>& times, const ArchiveEntry& mine);
  /// Times written so far, and the channels of each.
  const std::vector<Time>& times() const { return times_; }
  const std::vector<std::map<std::string, double>>& exact_times() const { return exact_times_; }
  /// Writes the tables, closes the file and gives it its name. Without it nothing remains.
  void commit();

private:
  NcWriter file_;
  CellGrid grid_;
  Channels channels_;
  Time step_;
  std::vector<float> no_field_;
  std::vector<Time> times_;
  std::vector<std::map<std::string, double>> exact_times_;
};

} // namespace pluvia
