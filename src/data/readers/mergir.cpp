#include "pluvia/data/readers/mergir.hpp"

#include "pluvia/core/error.hpp"
#include "pluvia/data/readers/latlon_file.hpp"

namespace pluvia {

std::unique_ptr<RawFile> open_mergir(const std::string& path) {
  if (!is_netcdf(path)) return nullptr;
  NcReader file(path);
  const std::vector<std::string> dimensions{"time", "lat", "lon"};
  if (!file.has("Tb") || file.variable("Tb").dimensions != dimensions) return nullptr;
  const std::string units = file.text("Tb", "units");
  if (units != "K") fail(ExitCode::data, path + " has temperatures in \"" + units + "\"", "K expected");

  std::vector<RawFrame> frames;
  const std::optional<Time> named = time_in_name(path, "merg_", true);
  const std::vector<Time> times = read_raw_times(file);
  for (std::size_t t = 0; t < times.size(); ++t) {
    if (named && (times[t] < *named || times[t] >= *named + 3600))
      fail(ExitCode::data, path + " holds an image of " + format_time(times[t]),
           "its name says " + format_time(*named));
    frames.push_back({"tb", Quantity::brightness_temperature, times[t], times[t], static_cast<long>(t)});
  }
  return std::make_unique<LatLonFile>(std::move(file), "Tb", std::move(frames));
}

} // namespace pluvia
