#include "pluvia/io/time.hpp"

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"
#include "pluvia/io/grid.hpp"

using namespace pluvia;

namespace {
template <class Body> ExitCode code_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::done;
}
} // namespace

TEST(Time, ReadsEveryAcceptedForm) {
  EXPECT_EQ(parse_time("1970-01-01"), 0);
  EXPECT_EQ(parse_time("2019-12-31T06:00"), 1577772000);
  EXPECT_EQ(parse_time("2019-12-31 06:00"), 1577772000);
  EXPECT_EQ(parse_time("2019-12-31T06:00:30"), 1577772030);
  EXPECT_EQ(parse_time("2019-12-31T06:00:30Z"), 1577772030);
  EXPECT_EQ(parse_time("1969-12-31T23:59:59"), -1);
}

TEST(Time, RefusesWhatIsNoTime) {
  for (const char* text :
       {"", "2019", "2019-1-1", "2019-02-29", "2019-13-01", "2019-12-31T24:00", "2019-12-31T06",
        "2019-12-31T06:60", "2019-12-31T06:00+01:00", "2019-12-31T06:00Zx", "31-12-2019"})
    EXPECT_EQ(code_of([&] { parse_time(text); }), ExitCode::usage) << text;
}

TEST(Time, FormatIsTheInverseOfParse) {
  for (Time t = -5'000'000'000; t < 5'000'000'000; t += 12'345'677) EXPECT_EQ(parse_time(format_time(t)), t);
  EXPECT_EQ(format_time(1577772000), "2019-12-31T06:00:00Z");
  EXPECT_EQ(format_time_compact(1577772000), "20191231T0600Z");
}

TEST(Time, ReadsDurations) {
  EXPECT_EQ(parse_duration("PT6H"), 6 * 3600);
  EXPECT_EQ(parse_duration("PT30M"), 1800);
  EXPECT_EQ(parse_duration("P1D"), 86400);
  EXPECT_EQ(parse_duration("P1DT12H30M5S"), 86400 + 12 * 3600 + 30 * 60 + 5);
  for (const char* text :
       {"", "P", "PT", "6H", "PT6", "PT6X", "P6H", "PT1M1H", "PT1H1H", "P1DT", "PT0H", "P1M"})
    EXPECT_EQ(code_of([&] { parse_duration(text); }), ExitCode::usage) << text;
}

TEST(Time, ReadsCfUnits) {
  const auto check = [](const char* units, const char* calendar, double seconds, Time epoch) {
    const TimeUnits read = parse_time_units(units, calendar);
    EXPECT_EQ(read.seconds_per_unit, seconds) << units;
    EXPECT_EQ(read.epoch, epoch) << units;
  };
  check("seconds since 1970-01-01 00:00:00", "standard", 1, 0);
  check("minutes since 1970-01-01", "", 60, 0);
  check("hours since 2019-12-31 06:00", "gregorian", 3600, 1577772000);
  check("days since 2019-12-31T06:00:00Z", "proleptic_gregorian", 86400, 1577772000);
  check("hours since 1900-1-1 0:0:0.0", "standard", 3600, -2208988800);
  check("seconds since 2000-01-01 12:00:00 UTC", "standard", 1, 946728000);
  // 1582-10-04 (Julian) is the day before 1582-10-15 (Gregorian) in the standard calendar.
  check("days since 1582-10-15", "standard", 86400, -12219292800);
  check("days since 1582-10-04", "standard", 86400, -12219292800 - 86400);
  check("days since 1-1-1", "standard", 86400, Time{-719164} * 86400);
  check("days since 1-1-1", "proleptic_gregorian", 86400, Time{-719162} * 86400);
}

TEST(Time, RefusesOtherUnitsAndCalendars) {
  for (const char* units :
       {"", "hours", "months since 1970-01-01", "hours since yesterday", "hours since 1970-02-30",
        "hours since 1970-01-01 00:00:00 +01:00", "seconds since 1970-01-01 00:00:00.5"})
    EXPECT_EQ(code_of([&] { parse_time_units(units, "standard"); }), ExitCode::data) << units;
  for (const char* calendar : {"julian", "noleap", "360_day", "365_day"})
    EXPECT_EQ(code_of([&] { parse_time_units("days since 1970-01-01", calendar); }), ExitCode::data)
        << calendar;
}

TEST(Grid, KnowsWhenLongitudesClose) {
  Grid grid;
  grid.y = {0, 60};
  for (int i = 0; i < 36; ++i) grid.x.push_back(-175 + 10 * i);
  EXPECT_TRUE(closes_in_longitude(grid));
  grid.x.pop_back();
  EXPECT_FALSE(closes_in_longitude(grid));
  EXPECT_NEAR(row_areas(grid)[1], 0.5F, 1e-6F);
  grid.kind = Grid::Kind::projected;
  EXPECT_EQ(row_areas(grid)[1], 1.0F);
}
