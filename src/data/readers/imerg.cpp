#include "pluvia/data/readers/imerg.hpp"

#include "pluvia/core/error.hpp"
#include "pluvia/data/readers/latlon_file.hpp"

namespace pluvia {

namespace {
constexpr Time half_hour = 1800, day = 86400;

/// The daily and monthly products look alike, but for their names and bounds.
void check_half_hours(const NcReader& file, const std::vector<Time>& starts) {
  if (file.has("time_bnds") &&
      file.variable("time_bnds").extents == std::vector<std::size_t>{starts.size(), 2}) {
    const std::vector<double> bounds = file.values("time_bnds"); // in the units of time, seconds
    for (std::size_t t = 0; t < starts.size(); ++t)
      if (const double length = bounds[2 * t + 1] - bounds[2 * t];
          length < half_hour - 2 || length > half_hour)
        fail(ExitCode::data, file.path() + " is no half-hourly file",
             "an interval of " + std::to_string(static_cast<long>(length)) + " s");
  }
  if (const std::optional<Time> named = time_in_name(file.path(), "3IMERG.", false)) {
    if (file.path().rfind("3B-HHR") == std::string::npos)
      fail(ExitCode::data, file.path() + " is no half-hourly file", "their names begin with 3B-HHR");
    for (const Time start : starts)
      if (start < *named || start >= *named + day)
        fail(ExitCode::data, file.path() + " holds rain of " + format_time(start),
             "its name says " + format_time(*named).substr(0, 10));
  }
}
} // namespace

std::unique_ptr<RawFile> open_imerg(const std::string& path) {
  if (!is_netcdf(path)) return nullptr;
  NcReader file(path);
  if (file.has_group("Grid")) file = NcReader(path, "Grid");
  std::string variable;
  const std::vector<std::string> dimensions{"time", "lon", "lat"};
  for (const char* name : {"precipitationCal", "precipitation"})
    if (variable.empty() && file.has(name) && file.variable(name).dimensions == dimensions) variable = name;
  if (variable.empty()) return nullptr;
  const std::string units = file.text(variable, "units");
  if (units != "mm/hr" && units != "mm/h" && units != "mm h-1" && units != "mm hr-1")
    fail(ExitCode::data, path + " has precipitation in \"" + units + "\"", "mm/hr expected");

  const std::vector<Time> starts = read_raw_times(file);
  check_half_hours(file, starts);
  std::vector<RawFrame> frames;
  for (std::size_t t = 0; t < starts.size(); ++t)
    frames.push_back(
        {"precip", Quantity::precipitation_rate, starts[t], starts[t] + half_hour, static_cast<long>(t)});
  return std::make_unique<LatLonFile>(std::move(file), variable, std::move(frames));
}

} // namespace pluvia
