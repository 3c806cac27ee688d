#include "pluvia/model/pooled_regression.hpp"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/data/amount_class.hpp"

namespace pluvia {

namespace {

constexpr Time hour = 3600;
constexpr double rows_wanted = 100000;
constexpr std::size_t times_wanted = 240;
constexpr float least_probability = 1e-5F; ///< of a class; the logarithm of it is the base of a logit

} // namespace

std::vector<PooledRows> pooled_rows(const Communicator& comm, const Log& log, ArchiveReader& reader,
                                    const RecentWeatherRule& rule, const Climatology& climatology,
                                    const std::vector<double>& leads_hours, std::span<const float> area,
                                    std::span<const TimeSpan> spans, Share share) {
  const ArchiveIndex& index = reader.index();
  const Rect tile = climatology.tile(), held = reader.rect();
  const auto thresholds = static_cast<int>(rule.thresholds_mm.size());
  const auto lead_seconds = [&](std::size_t lead) {
    return static_cast<Time>(std::lround(leads_hours[lead] * 3600));
  };
  const auto in_range = [&](Time end) { return hold_window(spans, end, rule.rain.window); };

  // Initial times at whole hours with at least one window in the range and a frame of their own; an odd
  // stride visits every hour of the day.
  std::vector<Time> inits;
  if (!index.frames.empty()) {
    const Time first = (index.frames.front().time + hour - 1) / hour * hour;
    for (Time init = first; init <= index.frames.back().time; init += hour) {
      bool used = false;
      for (std::size_t lead = 0; lead < leads_hours.size(); ++lead)
        used = used || in_range(init + lead_seconds(lead));
      if (used && find_frame(index, init)) inits.push_back(init);
    }
  }
  std::size_t stride = (inits.size() + times_wanted - 1) / times_wanted;
  if (stride > 1) stride |= 1;
  const auto times =
      stride == 0 ? 0.0 : std::ceil(static_cast<double>(inits.size()) / static_cast<double>(stride));
  const double chance =
      rows_wanted / std::max(1.0, times * static_cast<double>(index.grid.ny() * index.grid.nx()));

  std::vector<PooledRows> out(leads_hours.size(), {{RecentWeather::count, thresholds, {}, {}, {}, {}}, {}});
  together(comm, [&] {
    const Span own = share.of(static_cast<Index>(times));
    Progress progress(log, "sampling the training range", own.size());
    for (Index turn = own.from; turn < own.to; ++turn) {
      const Time init = inits[static_cast<std::size_t>(turn) * stride];
      std::vector<std::size_t> chosen;
      for (Index y = tile.y0; y < tile.y1; ++y)
        for (Index x = tile.x0; x < tile.x1; ++x)
          if (random_uniform(1, RandomPurpose::subsample, static_cast<std::uint64_t>(y * index.grid.nx() + x),
                             static_cast<std::uint64_t>(init)) < chance)
            chosen.push_back(static_cast<std::size_t>((y - tile.y0) * tile.width() + x - tile.x0));
      if (chosen.empty()) continue;
      const RecentWeather weather = recent_weather(reader, rule, tile, init);
      for (std::size_t lead = 0; lead < leads_hours.size(); ++lead) {
        const Time end = init + lead_seconds(lead);
        if (!in_range(end)) continue;
        const std::vector<float> amount = accumulate(reader, rule.rain, end);
        const std::vector<float> climate =
            exceedance(climatology.probabilities_without(end), climatology.classes());
        RegressionRows& into = out[lead].regression;
        for (const std::size_t cell : chosen) {
          const Index y = tile.y0 + static_cast<Index>(cell) / tile.width(),
                      x = tile.x0 + static_cast<Index>(cell) % tile.width();
          const int k =
              amount_class(amount[static_cast<std::size_t>((y - held.y0) * held.width() + x - held.x0)],
                           rule.thresholds_mm);
          if (k < 0) continue;
          const float* predictors = weather.predictors.data() + cell * RecentWeather::count;
          into.x.insert(into.x.end(), predictors, predictors + RecentWeather::count);
          for (int t = 0; t < thresholds; ++t)
            into.climatology.push_back(
                climate[static_cast<std::size_t>(t) * static_cast<std::size_t>(tile.cells()) + cell]);
          into.observed.push_back(static_cast<std::int8_t>(k));
          into.weight.push_back(area[cell]);
          out[lead].persisted.push_back(weather.persisted[cell]);
        }
      }
      progress.update(turn + 1 - own.from);
    }
  });
  std::int64_t counted = 0;
  for (const PooledRows& rows : out) counted += static_cast<std::int64_t>(rows.persisted.size());
  comm.all_reduce(std::span(&counted, 1), Reduce::sum);
  if (counted == 0)
    fail(ExitCode::data, "The pooled regression cannot be fitted",
         "no initial time of the training range has a complete window", "Widen data.train.");
  return out;
}

std::vector<LogisticRegression> fit_pooled_regression(const Communicator& comm,
                                                      const std::vector<PooledRows>& rows) {
  std::vector<LogisticRegression> out;
  for (const PooledRows& lead : rows) out.push_back(fit_logistic_regression(comm, lead.regression));
  return out;
}

std::vector<std::vector<float>> regression_base(const std::vector<LogisticRegression>& regressions,
                                                const RecentWeather& weather,
                                                const std::vector<std::vector<float>>& climatology) {
  const std::size_t cells = weather.persisted.size();
  std::vector<std::vector<float>> out;
  for (std::size_t lead = 0; lead < regressions.size(); ++lead) {
    const std::size_t classes = regressions[lead].coefficients.size() + 1;
    const std::vector<float> p = predict(regressions[lead], weather.predictors,
                                         exceedance(climatology[lead], static_cast<int>(classes)));
    std::vector<float>& base = out.emplace_back(cells * classes);
#pragma omp parallel for schedule(static)
    for (std::size_t cell = 0; cell < cells; ++cell) {
      float* into = base.data() + cell * classes;
      float reached = 1, sum = 0; // P(amount >= lower end of the class)
      for (std::size_t k = 0; k < classes; ++k) {
        const float next = k + 1 < classes ? p[k * cells + cell] : 0.0F;
        sum += into[k] = std::max(reached - next, least_probability);
        reached = next;
      }
      for (std::size_t k = 0; k < classes; ++k) into[k] /= sum;
    }
  }
  return out;
}

std::string to_json(const std::vector<LogisticRegression>& regressions) {
  const auto standards = [](const std::vector<LogisticRegression::Standard>& values) {
    nlohmann::json out = nlohmann::json::array();
    for (const auto& [mean, scale] : values) out.push_back({mean, scale});
    return out;
  };
  nlohmann::json out = nlohmann::json::array();
  for (const LogisticRegression& r : regressions)
    out.push_back({{"predictors", standards(r.predictors)},
                   {"log_odds", standards(r.log_odds)},
                   {"coefficients", r.coefficients}});
  return out.dump();
}

std::vector<LogisticRegression> regressions_from_json(const std::string& text, std::size_t leads,
                                                      std::size_t thresholds) {
  std::vector<LogisticRegression> out;
  std::string why = "its parts do not fit together";
  bool good = false;
  try {
    const auto standards = [](const nlohmann::json& values) {
      std::vector<LogisticRegression::Standard> read;
      for (const auto& pair : values) read.push_back({pair.at(0), pair.at(1)});
      return read;
    };
    for (const auto& lead : nlohmann::json::parse(text))
      out.push_back({standards(lead.at("predictors")), standards(lead.at("log_odds")),
                     lead.at("coefficients").get<std::vector<std::vector<double>>>()});
    constexpr std::size_t count = RecentWeather::count;
    good = out.size() == leads && std::ranges::all_of(out, [&](const LogisticRegression& r) {
             return r.predictors.size() == count && r.log_odds.size() == thresholds &&
                    r.coefficients.size() == thresholds &&
                    std::ranges::all_of(r.coefficients, [&](const auto& b) { return b.size() == count + 2; });
           });
  } catch (const nlohmann::json::exception& error) {
    why = error.what();
  }
  if (!good)
    fail(ExitCode::data, "The pooled regression cannot be read", why,
         "Train again, or use another checkpoint.");
  return out;
}

} // namespace pluvia
