#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pluvia/data/readers/raw_file.hpp"
#include "pluvia/io/netcdf.hpp"

namespace pluvia {

/// A raw NetCDF file with one variable on time and a regular grid of 1-D lat and lon, in either order of the
/// two and either direction of latitude.
class LatLonFile : public RawFile {
public:
  /// `variable` has the dimensions time, lat and lon, time first; `frames` count along time. Throws a data
  /// Error when the coordinates do not form a regular grid.
  LatLonFile(NcReader file, const std::string& variable, std::vector<RawFrame> frames);

  std::vector<RawFrame> frames() const override { return frames_; }
  Geolocation locate(const GeoBox& box, double margin_degrees) const override;
  std::vector<float> read(const RawFrame& frame, const Rect& window) const override;

private:
  NcReader file_;
  std::string variable_;
  std::vector<RawFrame> frames_;
  std::vector<double> latitudes_, longitudes_;
  bool columns_first_; ///< stored (time, lon, lat)
};

/// The times of the axis `time` [s since 1970], whatever its epoch; a calendar called julian, as IMERG V07
/// has it, means the Gregorian one. Local. Throws a data Error when they cannot be decoded.
std::vector<Time> read_raw_times(const NcReader& file);

/// The time that a file's name gives after `mark`, written YYYYMMDD or YYYYMMDDHH; nothing when it gives
/// none. Local.
std::optional<Time> time_in_name(std::string_view path, std::string_view mark, bool with_hour);

} // namespace pluvia
