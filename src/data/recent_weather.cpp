#include "pluvia/data/recent_weather.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pluvia/data/amount_class.hpp"
#include "pluvia/data/box_mean.hpp"
#include "pluvia/data/sampler.hpp"

namespace pluvia {

namespace {

constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
constexpr Time hour = 3600;

/// The newest frame time that has arrived by `init`.
Time newest(const RecentWeatherRule& rule, const ArchiveIndex& index, const std::string& variable,
            Time init) {
  const auto found = rule.latency_minutes.find(variable);
  if (found == rule.latency_minutes.end()) return init;
  const Time late = static_cast<Time>(std::ceil(found->second * 60)), step = std::max<Time>(1, index.step);
  return init - (late + step - 1) / step * step;
}

} // namespace

RecentWeatherRule recent_weather_rule(const Settings& settings) {
  const SampleRule rule = make_sample_rule(settings);
  std::string brightness;
  for (const std::string& name : rule.predictors)
    if (name == "tb_min" || (brightness.empty() && name != rule.rain.variable)) brightness = name;
  return {rule.rain, rule.thresholds_mm, brightness, settings.data.latency_minutes};
}

Rect RecentWeather::grown(const Rect& tile, const Rect& domain) {
  return intersect(domain, {tile.y0 - reach, tile.y1 + reach, tile.x0 - reach, tile.x1 + reach});
}

RecentWeather recent_weather(ArchiveReader& reader, const RecentWeatherRule& rule, const Rect& tile,
                             Time init) {
  const Rect held = reader.rect();
  const auto cells = static_cast<std::size_t>(tile.cells());
  RecentWeather out{std::vector<std::int8_t>(cells),
                    std::vector<float>(cells * RecentWeather::count, unknown)};
  const auto put = [&](int column, const std::vector<float>& values) {
    for (std::size_t cell = 0; cell < cells; ++cell)
      out.predictors[cell * RecentWeather::count + static_cast<std::size_t>(column)] = values[cell];
  };
  if (!rule.brightness.empty()) {
    const Time now = newest(rule, reader.index(), rule.brightness, init);
    std::vector<float> middle;
    if (const auto field = reader.read(rule.brightness, now); !field.empty())
      for (int i = 0; i < 3; ++i) {
        const auto mean = box_mean(field, held, tile, RecentWeather::boxes[static_cast<std::size_t>(i)]);
        put(i, mean);
        if (i == 1) middle = mean;
      }
    const auto before = reader.read(rule.brightness, now - 3 * hour);
    if (!middle.empty() && !before.empty()) {
      const auto earlier = box_mean(before, held, tile, RecentWeather::boxes[1]);
      for (std::size_t cell = 0; cell < cells; ++cell) middle[cell] -= earlier[cell];
      put(6, middle);
    }
  }
  std::vector<float> rain =
      accumulate(reader, rule.rain, newest(rule, reader.index(), rule.rain.variable, init));
  for (Index y = tile.y0; y < tile.y1; ++y)
    for (Index x = tile.x0; x < tile.x1; ++x)
      out.persisted[static_cast<std::size_t>((y - tile.y0) * tile.width() + x - tile.x0)] =
          static_cast<std::int8_t>(
              amount_class(rain[static_cast<std::size_t>((y - held.y0) * held.width() + x - held.x0)],
                           rule.thresholds_mm));
  for (float& amount : rain)
    amount = std::log1p(std::max(amount, 0.0F)) + (std::isnan(amount) ? amount : 0.0F);
  for (int i = 0; i < 3; ++i)
    put(3 + i, box_mean(rain, held, tile, RecentWeather::boxes[static_cast<std::size_t>(i)]));
  return out;
}

} // namespace pluvia
