#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace pluvia {

/// Seconds since 1970-01-01 00:00 UTC (no leap seconds), proleptic Gregorian.
using Time = std::int64_t;

/// "2019-12-31", "2019-12-31T06:00", "2019-12-31T06:00:30", with or without a closing Z; a space may stand
/// for T. Throws a usage Error otherwise.
Time parse_time(std::string_view text);
/// "2019-12-31T06:00:00Z".
std::string format_time(Time t);
/// "20191231T0600Z", for file names.
std::string format_time_compact(Time t);
/// Seconds of an ISO duration "PT6H", "PT30M", "P1D". Throws a usage Error otherwise.
Time parse_duration(std::string_view text);

/// A CF time axis "UNIT since EPOCH".
struct TimeUnits {
  double seconds_per_unit = 1;
  Time epoch = 0;
};
/// Throws a data Error when the units or the calendar are not understood.
TimeUnits parse_time_units(std::string_view units, std::string_view calendar);

} // namespace pluvia
