#include "pluvia/data/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/data/amount_class.hpp"

namespace pluvia {

namespace {

constexpr Time hour = 3600;
constexpr double degree = std::numbers::pi / 180;

Time whole_seconds(double value, double unit, const std::string& key) {
  const double seconds = value * unit;
  if (seconds <= 0 || seconds != std::floor(seconds))
    fail(ExitCode::usage, key + " is not a whole number of seconds", "", "Use full minutes.");
  return static_cast<Time>(seconds);
}

/// Declination of the sun [rad] (Cooper 1969) and hour angle at longitude 0 [rad]; good to about a degree.
struct Sun {
  double declination, hour_angle, year_angle;
};
Sun sun_at(Time t) {
  const double days = static_cast<double>(t) / 86400.0;
  const double year_angle = 2 * std::numbers::pi * std::fmod(days, 365.2425) / 365.2425;
  const double day_of_year = year_angle / (2 * std::numbers::pi) * 365.2425;
  return {23.45 * degree * std::sin(2 * std::numbers::pi * (284 + day_of_year) / 365.0),
          2 * std::numbers::pi * (days - std::floor(days)) - std::numbers::pi, year_angle};
}

/// Angle of each coordinate within the domain: the coordinate itself on a closed axis, else -pi/2 .. pi/2
/// across it.
std::vector<double> angles(const std::vector<double>& coordinate, bool closed) {
  std::vector<double> out;
  const auto [low, high] = std::ranges::minmax(coordinate);
  for (double c : coordinate)
    out.push_back(closed ? c * degree
                         : (high > low ? std::numbers::pi * ((c - low) / (high - low) - 0.5) : 0.0));
  return out;
}

} // namespace

SampleRule make_sample_rule(const Settings& settings) {
  const DataSettings& data = settings.data;
  const TargetSettings& target = settings.target;
  const ModelSettings& model = settings.model;
  SampleRule rule;
  if (data.target.empty())
    fail(ExitCode::usage, "data.target is not set", "", "Name the precipitation rate of the archive.");
  if (data.predictors.empty())
    fail(ExitCode::usage, "data.predictors is empty", "", "Name the variables that the network sees.");
  rule.predictors = data.predictors;
  for (const std::string& name : data.predictors) {
    const auto found = data.latency_minutes.find(name);
    rule.latency.push_back(found == data.latency_minutes.end() ? 0 : static_cast<Time>(found->second * 60));
  }
  for (const auto& [name, minutes] : data.latency_minutes)
    if (std::ranges::find(data.predictors, name) == data.predictors.end())
      fail(ExitCode::usage, "data.latency_minutes names " + name, "it is not one of data.predictors",
           "Remove it or add the predictor.");
  rule.rain = {data.target, data.precip_label == "start",
               whole_seconds(target.window_hours, 3600, "target.window_hours")};
  rule.history = static_cast<std::size_t>(model.history);
  rule.frame_step = whole_seconds(model.frame_minutes, 60, "model.frame_minutes");
  for (double lead : target.leads_hours) {
    rule.leads.push_back(whole_seconds(lead, 3600, "target.leads_hours"));
    if (rule.leads.back() % hour != 0)
      fail(ExitCode::usage, "target.leads_hours holds a lead that is not a whole hour",
           "the climatology counts windows that end at whole hours", "Use whole hours.");
  }
  rule.thresholds_mm = target.thresholds_mm;
  return rule;
}

std::vector<Time> initial_times(const SampleRule& rule, std::span<const TimeSpan> spans) {
  std::vector<Time> out;
  if (spans.empty()) return out;
  const Time longest = *std::ranges::max_element(rule.leads);
  for (Time t = (spans.front().from - longest) / hour * hour; t < spans.back().to; t += hour)
    if (std::ranges::any_of(rule.leads,
                            [&](Time lead) { return hold_window(spans, t + lead, rule.rain.window); }))
      out.push_back(t);
  return out;
}

Sampler::Sampler(const ArchiveIndex& index, SampleRule rule, const Rect& tile, std::size_t cache_bytes)
    : reader_(index, tile, cache_bytes), rule_(std::move(rule)) {
  for (const std::string& name : rule_.predictors)
    has_time_.push_back(std::ranges::find(index.constants, name, &ArchiveIndex::Constant::name) ==
                        index.constants.end());
  const std::vector<float> lat = reader_.latitudes(), lon = reader_.longitudes();
  for (std::size_t i = 0; i < lat.size(); ++i) {
    sin_lat_.push_back(static_cast<float>(std::sin(lat[i] * degree)));
    cos_lat_.push_back(static_cast<float>(std::cos(lat[i] * degree)));
    sin_lon_.push_back(static_cast<float>(std::sin(lon[i] * degree)));
    cos_lon_.push_back(static_cast<float>(std::cos(lon[i] * degree)));
  }
  const std::vector<double> y = angles(index.grid.y, false),
                            x = angles(index.grid.x, closes_in_longitude(index.grid));
  for (Index r = tile.y0; r < tile.y1; ++r)
    for (Index c = tile.x0; c < tile.x1; ++c) {
      const double a = y[static_cast<std::size_t>(r)], b = x[static_cast<std::size_t>(c)];
      for (double v : {std::sin(a), std::cos(a), std::sin(b), std::cos(b)})
        position_.push_back(static_cast<float>(v));
    }
}

std::vector<float> Sampler::predictor(std::size_t p, Time time) {
  const std::string& name = rule_.predictors[p];
  if (name != rule_.rain.variable) {
    const auto values = reader_.read(name, time);
    return {values.begin(), values.end()};
  }
  // Past rain is known as its mean over the frame, whichever end of its interval the archive names.
  Accumulation over_frame = rule_.rain;
  over_frame.window = rule_.frame_step;
  std::vector<float> rain = accumulate(reader_, over_frame, time);
  const float per_hour = static_cast<float>(hour) / static_cast<float>(rule_.frame_step);
  bool any = false;
  for (float& v : rain) {
    any = any || !std::isnan(v);
    v = std::log1p(v * per_hour);
  }
  if (!any) rain.clear();
  return rain;
}

Normalisation Sampler::measure(const Communicator& comm, std::span<const TimeSpan> spans, Share share) {
  constexpr Time most = 200;
  Time length = 0;
  for (const TimeSpan& span : spans) length += span.to - span.from;
  const Time stride = std::max<Time>(1, length / rule_.frame_step / most) * rule_.frame_step;
  std::vector<Time> times;
  for (const TimeSpan& span : spans)
    for (Time t = (span.from + hour - 1) / hour * hour; t < span.to; t += stride) times.push_back(t);
  const Span own = share.of(static_cast<Index>(times.size()));
  const std::size_t n = rule_.predictors.size();
  // Of each predictor: count, sum and sum of squares; and both of values made smaller, for exact sums hold
  // squares of less than 2048 alone. Elevation and pressure are larger.
  constexpr double smaller = 0x1p-24;
  std::vector<FixedSum> sums(5 * n);
  together(comm, [&] {
    for (std::size_t p = 0; p < n; ++p)
      for (Index i = own.from; i < own.to; ++i) {
        for (float v : predictor(p, times[static_cast<std::size_t>(i)])) {
          if (std::isnan(v)) continue;
          const double whole = v, small = smaller * whole;
          sums[5 * p].add(1.0);
          sums[5 * p + 1].add(whole);
          sums[5 * p + 2].add(whole * whole);
          sums[5 * p + 3].add(small);
          sums[5 * p + 4].add(small * small);
        }
        for (std::size_t k = 0; k < 5; ++k) sums[5 * p + k].carry();
      }
  });
  all_reduce(comm, sums);
  Normalisation out;
  for (std::size_t p = 0; p < n; ++p) {
    const double count = sums[5 * p].value();
    const auto mean_of = [&](std::size_t k, double scale) {
      const double exact = sums[5 * p + k].value();
      return (std::isnan(exact) ? sums[5 * p + k + 2].value() / scale : exact) / count;
    };
    if (count == 0)
      fail(ExitCode::data, "Predictor " + rule_.predictors[p] + " has no valid cell in the training range",
           "every frame is missing", "Check data.archive and data.train.");
    const double mean = mean_of(1, smaller), square = mean_of(2, smaller * smaller);
    if (!std::isfinite(mean) || !std::isfinite(square))
      fail(ExitCode::data, "Predictor " + rule_.predictors[p] + " cannot be normalised",
           "it has values of 3e10 and more", "Store it in larger units.");
    const double variance = std::max(0.0, square - mean * mean);
    out.mean.push_back(static_cast<float>(mean));
    out.deviation.push_back(static_cast<float>(variance > 1e-12 ? std::sqrt(variance) : 1.0));
  }
  return out;
}

std::vector<bool> Sampler::lost_frames(const Disturbance& d) const {
  const std::size_t history = rule_.history;
  std::vector<bool> lost(rule_.predictors.size() * history, false);
  std::vector<std::size_t> newest; // that have arrived
  for (std::size_t p = 0; p < rule_.predictors.size(); ++p) {
    if (!has_time_[p]) continue;
    for (std::size_t f = 0; f < history; ++f)
      lost[p * history + f] = random_uniform(d.seed, RandomPurpose::outage, d.sample,
                                             static_cast<std::uint64_t>(p) << 32 | f) < d.frame_dropout;
    const auto late = static_cast<std::size_t>((rule_.latency[p] + rule_.frame_step - 1) / rule_.frame_step);
    if (late < history) newest.push_back((p + 1) * history - 1 - late);
  }
  if (!newest.empty() && std::ranges::all_of(newest, [&](std::size_t i) { return lost[i]; }))
    lost[newest[random_below(newest.size(), d.seed, RandomPurpose::outage, d.sample, ~std::uint64_t{0})]] =
        false;
  return lost;
}

SampleInput Sampler::input(Time init, const Normalisation& normalisation,
                           const std::vector<std::vector<float>>& base, Margin margin, Span frames,
                           const Disturbance& disturbance) {
  const Rect& r = tile();
  const std::size_t n = rule_.predictors.size(), cells = static_cast<std::size_t>(r.cells());
  const auto classes = static_cast<std::size_t>(rule_.classes());
  SampleInput sample{Tensor::apart({1, frames.size(), r.height(), r.width(), rule_.channels()}, margin),
                     std::vector<std::uint8_t>(cells, 0)};
  // The forecast's own windows, seen from every frame.
  std::vector<float> odds(rule_.leads.size() * cells);
  for (std::size_t lead = 0; lead < rule_.leads.size(); ++lead)
    for (std::size_t i = 0; i < cells; ++i) {
      const float dry = std::clamp(base[lead][i * classes], 1e-3F, 0.999F);
      odds[lead * cells + i] = 0.5F * std::log((1.0F - dry) / dry);
    }
  const std::vector<bool> lost = lost_frames(disturbance);
  const auto drift =
      static_cast<float>(disturbance.brightness_jitter *
                         random_normal(disturbance.seed, RandomPurpose::drift, disturbance.sample));
  std::vector<float> offset;
  for (std::size_t p = 0; p < n; ++p)
    offset.push_back(has_time_[p] && rule_.predictors[p] != rule_.rain.variable ? drift : 0.0F);
  for (Index f = frames.from; f < frames.to; ++f) {
    const Time time = init - (static_cast<Index>(rule_.history) - 1 - f) * rule_.frame_step;
    std::vector<std::vector<float>> values(n);
    for (std::size_t p = 0; p < n; ++p) {
      if (time <= init - rule_.latency[p] && !lost[p * rule_.history + static_cast<std::size_t>(f)])
        values[p] = predictor(p, time);
      for (std::size_t i = 0; i < cells; ++i) {
        if (values[p].empty())
          sample.quality[i] |= input_quality::frame_missing;
        else if (std::isnan(values[p][i]))
          sample.quality[i] |= input_quality::cell_missing;
      }
    }
    const Sun sun = sun_at(time);
    const auto sin_d = static_cast<float>(std::sin(sun.declination)),
               cos_d = static_cast<float>(std::cos(sun.declination));
    const auto sin_h = static_cast<float>(std::sin(sun.hour_angle)),
               cos_h = static_cast<float>(std::cos(sun.hour_angle));
    const auto sin_y = static_cast<float>(std::sin(sun.year_angle)),
               cos_y = static_cast<float>(std::cos(sun.year_angle));
    parallel_for(r.height(), [&](Index y) {
      for (Index x = 0; x < r.width(); ++x) {
        const auto i = static_cast<std::size_t>(y * r.width() + x);
        float* out = sample.features.cell(0, f - frames.from, y, x);
        for (std::size_t p = 0; p < n; ++p) {
          const bool valid = !values[p].empty() && !std::isnan(values[p][i]);
          out[p] =
              valid ? (values[p][i] + offset[p] - normalisation.mean[p]) / normalisation.deviation[p] : 0.0F;
          out[n + p] = valid ? 1.0F : 0.0F;
        }
        out += 2 * n;
        const float cos_hour = cos_h * cos_lon_[i] - sin_h * sin_lon_[i];
        *out++ = sin_lat_[i] * sin_d + cos_lat_[i] * cos_d * cos_hour;
        *out++ = sin_y;
        *out++ = cos_y;
        for (std::size_t k = 0; k < 4; ++k) *out++ = position_[4 * i + k];
        for (std::size_t lead = 0; lead < rule_.leads.size(); ++lead) *out++ = odds[lead * cells + i];
      }
    });
  }
  return sample;
}

std::vector<std::int8_t> Sampler::observed(Time end) {
  const std::vector<float> rain = accumulate(reader_, rule_.rain, end);
  std::vector<std::int8_t> classes;
  classes.reserve(rain.size());
  for (float amount : rain)
    classes.push_back(static_cast<std::int8_t>(amount_class(amount, rule_.thresholds_mm)));
  return classes;
}

Tensor log_base(std::span<const std::vector<float>> base, const Rect& tile, int classes) {
  const auto leads = static_cast<Index>(base.size());
  Tensor out = Tensor::apart({1, leads, tile.height(), tile.width(), classes});
  parallel_for(leads * tile.height(), [&](Index row) {
    const Index lead = row / tile.height(), y = row % tile.height();
    const float* p = base[static_cast<std::size_t>(lead)].data() + y * tile.width() * classes;
    float* logs = out.cell(0, lead, y, 0);
    for (Index i = 0; i < tile.width() * classes; ++i) logs[i] = std::log(p[i]);
  });
  return out;
}

} // namespace pluvia
