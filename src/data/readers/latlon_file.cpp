#include "pluvia/data/readers/latlon_file.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

/// Checks that an axis is regular to a tenth of its spacing: single precision blurs it by less.
std::vector<double> read_regular(const NcReader& file, const std::string& name) {
  std::vector<double> values = read_decimals(file, name);
  const auto irregular = [&](const std::string& why) {
    fail(ExitCode::data, file.path() + " has no regular coordinate " + name, why);
  };
  if (values.size() < 2) irregular("fewer than two values");
  const double spacing = (values.back() - values.front()) / static_cast<double>(values.size() - 1);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!(std::abs(values.front() + static_cast<double>(i) * spacing - values[i]) < 0.1 * std::abs(spacing)))
      irregular("its value " + std::to_string(i) + " is " + std::to_string(values[i]));
  return values;
}

double spacing_of(const std::vector<double>& axis) {
  return (axis.back() - axis.front()) / static_cast<double>(axis.size() - 1);
}

/// Position i of an axis that goes on beyond its ends.
double at(const std::vector<double>& axis, Index i) {
  const auto n = static_cast<Index>(axis.size());
  if (i < 0) return axis.front() + static_cast<double>(i) * spacing_of(axis);
  if (i >= n) return axis.back() + static_cast<double>(i - n + 1) * spacing_of(axis);
  return axis[static_cast<std::size_t>(i)];
}

/// The shortest half-open range of positions in [low, high) that holds all which `inside` accepts.
template <class Inside> std::pair<Index, Index> range_of(Index low, Index high, Inside inside) {
  while (low < high && !inside(low)) ++low;
  while (high > low && !inside(high - 1)) --high;
  return {low, high};
}

} // namespace

LatLonFile::LatLonFile(NcReader file, const std::string& variable, std::vector<RawFrame> frames)
    : file_(std::move(file)), variable_(variable), frames_(std::move(frames)),
      latitudes_(read_regular(file_, "lat")), longitudes_(read_regular(file_, "lon")),
      columns_first_(file_.variable(variable).dimensions[1] == "lon") {}

Geolocation LatLonFile::locate(const GeoBox& box, double margin_degrees) const {
  Geolocation out;
  out.pixel_height = std::abs(spacing_of(latitudes_));
  out.pixel_width = std::abs(spacing_of(longitudes_));
  const auto rows = static_cast<Index>(latitudes_.size()), columns = static_cast<Index>(longitudes_.size());
  const auto margin_rows = static_cast<Index>(std::ceil(margin_degrees / out.pixel_height));
  // No column beyond the edge may be one that the file has on its other side.
  const Index gap = std::llround(360 / out.pixel_width) - columns;
  const Index margin_columns = std::clamp<Index>(
      static_cast<Index>(std::ceil(margin_degrees / out.pixel_width)), 0, std::max<Index>(0, gap / 2));

  const auto touches_latitude = [&](Index i) {
    const double latitude = at(latitudes_, i), reach = out.pixel_height / 2;
    return std::abs(latitude) <= 90 && latitude > box.south - reach && latitude < box.north + reach;
  };
  const double half_span = (box.east - box.west) / 2, middle = box.west + half_span;
  const auto touches_longitude = [&](Index i) {
    return std::abs(std::remainder(at(longitudes_, i) - middle, 360)) < half_span + out.pixel_width / 2;
  };
  const auto [y0, y1] = range_of(-margin_rows, rows + margin_rows, touches_latitude);
  const auto [x0, x1] = range_of(-margin_columns, columns + margin_columns, touches_longitude);
  out.window = {y0, y1, x0, x1};
  if (intersect(out.window, {0, rows, 0, columns}).empty()) out.window = {}; // nothing but margin
  if (out.window.empty()) return out;
  for (Index y = y0; y < y1; ++y) out.latitudes.push_back(at(latitudes_, y));
  for (Index x = x0; x < x1; ++x) out.longitudes.push_back(at(longitudes_, x));
  return out;
}

std::vector<float> LatLonFile::read(const RawFrame& frame, const Rect& window) const {
  std::vector<float> out(static_cast<std::size_t>(window.cells()), std::numeric_limits<float>::quiet_NaN());
  const Rect held = intersect(
      window, {0, static_cast<Index>(latitudes_.size()), 0, static_cast<Index>(longitudes_.size())});
  if (held.empty()) return out;
  std::vector<float> stored(static_cast<std::size_t>(held.cells()));
  std::vector<std::size_t> start{static_cast<std::size_t>(frame.position), static_cast<std::size_t>(held.y0),
                                 static_cast<std::size_t>(held.x0)};
  std::vector<std::size_t> count{1, static_cast<std::size_t>(held.height()),
                                 static_cast<std::size_t>(held.width())};
  if (columns_first_) std::swap(start[1], start[2]), std::swap(count[1], count[2]);
  file_.read(variable_, start, count, stored);
  const Index row_stride = columns_first_ ? 1 : held.width();
  const Index column_stride = columns_first_ ? held.height() : 1;
  for (Index y = held.y0; y < held.y1; ++y)
    for (Index x = held.x0; x < held.x1; ++x)
      out[static_cast<std::size_t>((y - window.y0) * window.width() + x - window.x0)] =
          stored[static_cast<std::size_t>((y - held.y0) * row_stride + (x - held.x0) * column_stride)];
  return out;
}

std::vector<Time> read_raw_times(const NcReader& file) {
  std::string calendar = file.text("time", "calendar");
  if (calendar == "julian") calendar = "standard";
  TimeUnits units;
  try {
    units = parse_time_units(file.text("time", "units"), calendar);
  } catch (const Error& error) {
    fail(error.code(), file.path() + ": " + error.what());
  }
  std::vector<Time> out;
  for (const double value : file.values("time")) {
    if (std::isnan(value)) fail(ExitCode::data, file.path() + " has a missing time");
    out.push_back(units.epoch + std::llround(value * units.seconds_per_unit));
  }
  return out;
}

std::optional<Time> time_in_name(std::string_view path, std::string_view mark, bool with_hour) {
  const std::string_view name = path.substr(path.rfind('/') + 1); // npos + 1 = 0
  const std::size_t found = name.find(mark);
  const std::size_t length = with_hour ? 10 : 8;
  if (found == std::string_view::npos) return std::nullopt;
  const std::string digits(name.substr(found + mark.size(), length));
  if (digits.size() < length || digits.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  const std::string day = digits.substr(0, 4) + "-" + digits.substr(4, 2) + "-" + digits.substr(6, 2);
  try {
    return parse_time(with_hour ? day + "T" + digits.substr(8, 2) + ":00" : day);
  } catch (const Error&) {
    return std::nullopt; // digits that are no date
  }
}

} // namespace pluvia
