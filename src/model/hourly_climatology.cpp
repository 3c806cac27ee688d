#include "pluvia/model/hourly_climatology.hpp"

namespace pluvia {

namespace {

std::size_t hour_of(Time end) {
  constexpr Time hour = 3600, day = 24 * hour;
  const Time rounded = (end + hour / 2) % day;
  return static_cast<std::size_t>((rounded + day) % day / hour);
}

} // namespace

const std::vector<float>& HourlyClimatology::at(Time end) const {
  return hours[hour_of(end)];
}

HourlyClimatology finish(const Climatology& climatology) {
  HourlyClimatology out;
  out.classes = climatology.classes();
  for (int h = 0; h < Climatology::hours; ++h) out.hours.push_back(climatology.probabilities(Time{h} * 3600));
  return out;
}

TiledField to_field(const HourlyClimatology& climatology) {
  TiledField field;
  field.outer = static_cast<std::int64_t>(climatology.hours.size());
  field.inner = climatology.classes;
  for (const auto& hour : climatology.hours)
    field.values.insert(field.values.end(), hour.begin(), hour.end());
  return field;
}

void keep_hours(HourlyClimatology& climatology, const std::vector<Time>& ends) {
  std::vector<bool> wanted(climatology.hours.size(), false);
  for (const Time end : ends) wanted[hour_of(end)] = true;
  for (std::size_t h = 0; h < wanted.size(); ++h)
    if (!wanted[h]) std::vector<float>().swap(climatology.hours[h]);
}

HourlyClimatology from_field(const TiledField& field) {
  HourlyClimatology out;
  out.classes = static_cast<int>(field.inner);
  const auto size = static_cast<std::ptrdiff_t>(field.values.size()) / field.outer;
  for (std::int64_t h = 0; h < field.outer; ++h)
    out.hours.emplace_back(field.values.begin() + h * size, field.values.begin() + (h + 1) * size);
  return out;
}

} // namespace pluvia
