#include "pluvia/io/time.hpp"

#include <charconv>
#include <chrono>
#include <cstdio>
#include <optional>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

constexpr Time day_seconds = 86400;

/// Reads a text from the left, piece by piece.
class Cursor {
public:
  explicit Cursor(std::string_view text) : rest_(text) {}
  bool done() const { return rest_.empty(); }
  bool skip(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void skip_spaces() {
    while (skip(' ')) {
    }
  }
  bool skip(std::string_view word) {
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  std::optional<int> digits(std::size_t least, std::size_t most) {
    std::size_t n = 0;
    while (n < rest_.size() && n < most && rest_[n] >= '0' && rest_[n] <= '9') ++n;
    if (n < least) return std::nullopt;
    int value = 0;
    std::from_chars(rest_.data(), rest_.data() + n, value);
    rest_.remove_prefix(n);
    return value;
  }
  std::string_view rest() const { return rest_; }

private:
  std::string_view rest_;
};

struct Date {
  int year = 0, month = 0, day = 0;
};

std::optional<Date> read_date(Cursor& cursor, std::size_t least_digits) {
  const auto year = cursor.digits(least_digits == 2 ? 4 : 1, 4);
  if (!year || !cursor.skip('-')) return std::nullopt;
  const auto month = cursor.digits(least_digits, 2);
  if (!month || !cursor.skip('-')) return std::nullopt;
  const auto day = cursor.digits(least_digits, 2);
  if (!day) return std::nullopt;
  return Date{*year, *month, *day};
}

/// Days since 1970-01-01, proleptic Gregorian; nothing when there is no such date.
std::optional<Time> gregorian_days(const Date& date) {
  using namespace std::chrono;
  const year_month_day civil{year{date.year}, month{static_cast<unsigned>(date.month)},
                             day{static_cast<unsigned>(date.day)}};
  if (!civil.ok()) return std::nullopt;
  return sys_days{civil}.time_since_epoch().count();
}

/// Days since 1970-01-01 of a date in the Julian calendar, which CF's "standard" calendar uses before
/// 1582-10-15.
std::optional<Time> julian_days(const Date& date) {
  const bool leap = date.year % 4 == 0;
  constexpr int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
  if (date.month < 1 || date.month > 12) return std::nullopt;
  const int length = before[date.month] - before[date.month - 1] + (leap && date.month == 2 ? 1 : 0);
  if (date.day < 1 || date.day > length || date.year < 1) return std::nullopt;
  const Time past = date.year - 1;
  const Time since_year_1 =
      past * 365 + past / 4 + before[date.month - 1] + (leap && date.month > 2 ? 1 : 0) + date.day - 1;
  constexpr Time julian_year_1 = -719164; // 0001-01-01 Julian is two days before the Gregorian one
  return julian_year_1 + since_year_1;
}

/// "HH:MM[:SS]" with hours below 24; two digits each unless `least_digits` is 1.
std::optional<Time> read_clock(Cursor& cursor, std::size_t least_digits) {
  const auto hour = cursor.digits(least_digits, 2);
  if (!hour || *hour > 23) return std::nullopt;
  Time seconds = *hour * 3600;
  if (!cursor.skip(':')) return least_digits == 1 ? std::optional(seconds) : std::nullopt;
  const auto minute = cursor.digits(least_digits, 2);
  if (!minute || *minute > 59) return std::nullopt;
  seconds += *minute * 60;
  if (cursor.skip(':')) {
    const auto second = cursor.digits(least_digits, 2);
    if (!second || *second > 59) return std::nullopt;
    seconds += *second;
  }
  return seconds;
}

struct Civil {
  int year;
  unsigned month, day;
  int hour, minute, second;
};
Civil civil(Time t) {
  using namespace std::chrono;
  const sys_seconds point{seconds{t}};
  const auto date_part = floor<days>(point);
  const year_month_day date{date_part};
  const int rest = static_cast<int>((point - date_part).count());
  return {static_cast<int>(date.year()),
          static_cast<unsigned>(date.month()),
          static_cast<unsigned>(date.day()),
          rest / 3600,
          rest / 60 % 60,
          rest % 60};
}

} // namespace

Time parse_time(std::string_view text) {
  const auto refuse = [&]() {
    fail(ExitCode::usage, "\"" + std::string(text) + "\" is not a time",
         "expected YYYY-MM-DD[THH:MM[:SS]][Z], UTC", "Write for example 2019-12-31T06:00.");
  };
  Cursor cursor(text);
  const auto date = read_date(cursor, 2);
  if (!date) refuse();
  const auto days = gregorian_days(*date);
  if (!days) refuse();
  Time t = *days * day_seconds;
  if (cursor.skip('T') || cursor.skip(' ')) {
    const auto clock = read_clock(cursor, 2);
    if (!clock) refuse();
    t += *clock;
  }
  cursor.skip('Z');
  if (!cursor.done()) refuse();
  return t;
}

std::string format_time(Time t) {
  const Civil c = civil(t);
  char text[64];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02dZ", c.year, c.month, c.day, c.hour, c.minute,
                c.second);
  return text;
}

std::string format_time_compact(Time t) {
  const Civil c = civil(t);
  char text[64];
  std::snprintf(text, sizeof text, "%04d%02u%02uT%02d%02dZ", c.year, c.month, c.day, c.hour, c.minute);
  return text;
}

Time parse_duration(std::string_view text) {
  const auto refuse = [&]() {
    fail(ExitCode::usage, "\"" + std::string(text) + "\" is not a duration",
         "expected ISO 8601 such as PT6H or P1D", "Write for example PT30M, PT6H or P1DT12H.");
  };
  Cursor cursor(text);
  if (!cursor.skip('P') || cursor.done()) refuse();
  Time total = 0;
  bool in_clock = false;
  // Units must come in falling order, each at most once: D, then T, H, M, S.
  std::string_view allowed = "D";
  while (!cursor.done()) {
    if (!in_clock && cursor.skip('T')) {
      in_clock = true;
      allowed = "HMS";
      if (cursor.done()) refuse();
      continue;
    }
    const auto value = cursor.digits(1, 6);
    if (!value || cursor.done()) refuse();
    const char unit = cursor.rest().front();
    const std::size_t at = allowed.find(unit);
    if (at == std::string_view::npos) refuse();
    cursor.skip(unit);
    allowed.remove_prefix(at + 1);
    total += *value * (unit == 'D' ? day_seconds : unit == 'H' ? 3600 : unit == 'M' ? 60 : 1);
  }
  if (total == 0) refuse();
  return total;
}

TimeUnits parse_time_units(std::string_view units, std::string_view calendar) {
  const auto refuse = [&](std::string_view why) {
    fail(ExitCode::data, "The time units \"" + std::string(units) + "\" are not understood", why,
         "Rewrite the axis as \"seconds since 1970-01-01 00:00:00\" in the standard calendar.");
  };
  const bool proleptic = calendar == "proleptic_gregorian";
  if (!calendar.empty() && calendar != "standard" && calendar != "gregorian" && !proleptic)
    refuse("calendar \"" + std::string(calendar) +
           "\"; standard, gregorian and proleptic_gregorian are read");

  const std::size_t gap = units.find(' ');
  if (gap == std::string_view::npos) refuse("expected UNIT since EPOCH");
  const std::string_view unit = units.substr(0, gap);
  TimeUnits out;
  if (unit == "seconds" || unit == "second" || unit == "sec" || unit == "secs" || unit == "s")
    out.seconds_per_unit = 1;
  else if (unit == "minutes" || unit == "minute" || unit == "min" || unit == "mins")
    out.seconds_per_unit = 60;
  else if (unit == "hours" || unit == "hour" || unit == "hr" || unit == "hrs" || unit == "h")
    out.seconds_per_unit = 3600;
  else if (unit == "days" || unit == "day" || unit == "d")
    out.seconds_per_unit = day_seconds;
  else
    refuse("the unit must be seconds, minutes, hours or days");

  Cursor cursor(units.substr(gap));
  cursor.skip_spaces();
  if (!cursor.skip("since ")) refuse("expected UNIT since EPOCH");
  cursor.skip_spaces();
  const auto date = read_date(cursor, 1);
  if (!date) refuse("expected an epoch YYYY-MM-DD [HH:MM:SS]");
  const bool before_reform = date->year * 10000 + date->month * 100 + date->day < 15821015;
  const auto days = before_reform && !proleptic ? julian_days(*date) : gregorian_days(*date);
  if (!days) refuse("there is no such date");
  out.epoch = *days * day_seconds;
  if (!cursor.skip('T')) cursor.skip_spaces();
  if (!cursor.done() && cursor.rest().front() >= '0' && cursor.rest().front() <= '9') {
    const auto clock = read_clock(cursor, 1);
    if (!clock) refuse("expected an epoch YYYY-MM-DD [HH:MM:SS]");
    out.epoch += *clock;
    if (cursor.skip('.')) {
      while (cursor.skip('0')) {
      }
    }
  }
  cursor.skip_spaces();
  for (std::string_view zone : {"Z", "UTC", "GMT", "+00:00", "+0:00", "+0000", "-00:00", "0:00", "00:00"})
    if (cursor.skip(zone)) break;
  if (!cursor.done()) refuse("only epochs in whole seconds of UTC are read");
  return out;
}

} // namespace pluvia
