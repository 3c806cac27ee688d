#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/data/archive.hpp"

namespace pluvia {

/// Where the weather of the last hours is read.
struct RecentWeatherRule {
  Accumulation rain;
  std::vector<double> thresholds_mm;
  std::string brightness;                        ///< variable of brightness temperature [K]; empty = none
  std::map<std::string, double> latency_minutes; ///< by variable: how late it arrives
};
/// From the settings; the brightness temperature is the predictor tb_min where there is one, otherwise the
/// first that is not the target, none when there is no other. Throws as make_sample_rule does.
RecentWeatherRule recent_weather_rule(const Settings& settings);

/// What is known of a tile at an initial time, as few numbers a cell.
struct RecentWeather {
  static constexpr std::array<int, 3> boxes{1, 5, 13}; ///< widths of the box means [cells]
  static constexpr int reach = 6;                      ///< cells around the tile that they need
  static constexpr int count = 7;
  /// The tile with those cells.
  static Rect grown(const Rect& tile, const Rect& domain);
  std::vector<std::int8_t> persisted; ///< class of the last complete window; -1 = unknown
  /// [cells x count], NaN = unknown: brightness temperature [K] and log(1 + rain of the last window [mm]) as
  /// box means of three widths each, and the 3-hour change of the middle one of the former [K].
  std::vector<float> predictors;
};
/// Reads it for a tile, of which `reader` must cover RecentWeather::grown: the newest frame and the newest
/// window that have arrived by `init`. The same bits on every tiling. Local.
RecentWeather recent_weather(ArchiveReader& reader, const RecentWeatherRule& rule, const Rect& tile,
                             Time init);

} // namespace pluvia
