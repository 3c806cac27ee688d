#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/data/box_mean.hpp"
#include "pluvia/verify/scores.hpp"

namespace pluvia {

namespace {
constexpr Time day_seconds = 86400;
constexpr float area_units = 4096;

Time midnight(Time t) {
  const Time rest = t % day_seconds;
  return t - rest - (rest < 0 ? day_seconds : 0);
}
} // namespace

void ScoreCounts::add(const ScoreCounts& other, std::int64_t times) {
  for (int b = 0; b < bins; ++b) {
    weight[b] += times * other.weight[b];
    events[b] += times * other.events[b];
  }
  square += times * other.square;
}

void FractionSums::add(const FractionSums& other, std::int64_t times) {
  FixedSum FractionSums::*const parts[] = {&FractionSums::miss, &FractionSums::forecast,
                                           &FractionSums::observed};
  for (const auto part : parts) {
    FixedSum term = other.*part;
    term.carry();
    (this->*part).add({times * term.high, times * term.low});
    (this->*part).carry();
  }
}

ScoreTable::ScoreTable(std::vector<std::string> systems, std::vector<double> leads_hours,
                       std::vector<double> thresholds_mm)
    : systems_(std::move(systems)), leads_(std::move(leads_hours)), thresholds_(std::move(thresholds_mm)),
      inits_(leads_.size()), histograms_(systems_.size() * leads_.size() * thresholds_.size()) {}

std::size_t ScoreTable::at(int system, int lead, int threshold) const {
  return (static_cast<std::size_t>(system) * leads_.size() + static_cast<std::size_t>(lead)) *
             thresholds_.size() +
         static_cast<std::size_t>(threshold);
}

ScoreTable::Day& ScoreTable::day(Time at) {
  return days_
      .try_emplace(at,
                   Day{std::vector<std::int64_t>(leads_.size()), std::vector<ScoreCounts>(histograms_.size()),
                       std::vector<FractionSums>(leads_.size() * thresholds_.size() * widths.size())})
      .first->second;
}

void ScoreTable::add(int lead, Time window_end, std::span<const std::vector<float>> forecasts,
                     std::span<const std::int8_t> observed, std::span<const float> area) {
  const std::size_t cells = observed.size();
  Day& into = day(midnight(window_end - 1));
  if (cells > 0) inits_[static_cast<std::size_t>(lead)].insert(init_of(lead, window_end));
  std::vector<std::int64_t> weight(cells); // 0 = left out
  for (std::size_t cell = 0; cell < cells; ++cell) {
    bool valid = observed[cell] >= 0;
    for (const std::vector<float>& forecast : forecasts)
      for (std::size_t k = 0; valid && k < thresholds_.size(); ++k)
        valid = !std::isnan(forecast[k * cells + cell]);
    if (!valid) continue;
    weight[cell] = std::max<std::int64_t>(1, std::lround(area[cell] * area_units));
    ++into.n_valid[static_cast<std::size_t>(lead)];
  }
  for (std::size_t s = 0; s < systems_.size(); ++s)
    for (std::size_t k = 0; k < thresholds_.size(); ++k) {
      const std::size_t i = at(static_cast<int>(s), lead, static_cast<int>(k));
      ScoreCounts& counts = into.counts[i];
      ForecastHistogram& histogram = histograms_[i];
      const float* p = forecasts[s].data() + k * cells;
      for (std::size_t cell = 0; cell < cells; ++cell) {
        if (weight[cell] == 0) continue;
        const auto v = std::clamp<std::int64_t>(std::lround(p[cell] * 1000.0F), 0, 1000);
        const bool event = observed[cell] > static_cast<int>(k);
        const auto bin = std::min<std::int64_t>(v / 100, ScoreCounts::bins - 1);
        const std::int64_t miss = event ? 1000 - v : v;
        counts.weight[bin] += weight[cell];
        counts.square += weight[cell] * miss * miss;
        histogram.weight[static_cast<std::size_t>(v)] += weight[cell];
        if (event) {
          counts.events[bin] += weight[cell];
          histogram.events[static_cast<std::size_t>(v)] += weight[cell];
        }
      }
    }
}

void ScoreTable::add_neighbourhoods(int lead, Time window_end, std::span<const float> forecast,
                                    std::span<const std::int8_t> observed, const Rect& held, const Rect& tile,
                                    std::span<const float> area) {
  Day& into = day(midnight(window_end - 1));
  const std::size_t cells = observed.size();
  for (std::size_t k = 0; k < thresholds_.size(); ++k) {
    std::vector<float> probability(forecast.begin() + static_cast<std::ptrdiff_t>(k * cells),
                                   forecast.begin() + static_cast<std::ptrdiff_t>((k + 1) * cells)),
        event(cells);
    for (std::size_t cell = 0; cell < cells; ++cell) {
      event[cell] = observed[cell] > static_cast<int>(k) ? 1.0F : 0.0F;
      if (observed[cell] < 0 || std::isnan(probability[cell]))
        probability[cell] = event[cell] = std::numeric_limits<float>::quiet_NaN();
    }
    for (std::size_t w = 0; w < widths.size(); ++w) {
      const std::vector<float> f = box_mean(probability, held, tile, widths[w]),
                               o = box_mean(event, held, tile, widths[w]);
      FractionSums& sums =
          into.fractions[(static_cast<std::size_t>(lead) * thresholds_.size() + k) * widths.size() + w];
      for (std::size_t cell = 0; cell < f.size(); ++cell) {
        if (std::isnan(f[cell])) continue;
        const double weight = area[cell], a = f[cell], b = o[cell];
        sums.miss.add(weight * (a - b) * (a - b));
        sums.forecast.add(weight * a * a);
        sums.observed.add(weight * b * b);
      }
      sums.miss.carry(), sums.forecast.carry(), sums.observed.carry();
    }
  }
}

void ScoreTable::reduce(const Communicator& comm) {
  // Ranks may have seen different days: all get all of them before sums are exchanged.
  std::ostringstream own;
  for (const auto& [at, unused] : days_) own << at << ' ';
  for (const std::string& text : comm.all_gather(own.str())) {
    std::istringstream in(text);
    for (Time at; in >> at;) day(at);
  }
  for (std::set<Time>& inits : inits_) {
    std::ostringstream seen;
    for (const Time init : inits) seen << init << ' ';
    for (const std::string& text : comm.all_gather(seen.str())) {
      std::istringstream in(text);
      for (Time init; in >> init;) inits.insert(init);
    }
  }
  for (auto& [at, day] : days_) {
    std::vector<std::int64_t> sums = day.n_valid;
    for (const ScoreCounts& c : day.counts) {
      sums.insert(sums.end(), c.weight, c.weight + ScoreCounts::bins);
      sums.insert(sums.end(), c.events, c.events + ScoreCounts::bins);
      sums.push_back(c.square);
    }
    comm.all_reduce(sums, Reduce::sum);
    std::vector<FixedSum> fractions;
    for (const FractionSums& f : day.fractions)
      fractions.insert(fractions.end(), {f.miss, f.forecast, f.observed});
    all_reduce(comm, fractions);
    for (std::size_t i = 0; i < day.fractions.size(); ++i)
      day.fractions[i] = {fractions[3 * i], fractions[3 * i + 1], fractions[3 * i + 2]};
    auto next = sums.cbegin();
    for (std::int64_t& n : day.n_valid) n = *next++;
    for (ScoreCounts& c : day.counts) {
      for (std::int64_t& w : c.weight) w = *next++;
      for (std::int64_t& e : c.events) e = *next++;
      c.square = *next++;
    }
  }
  for (ForecastHistogram& h : histograms_) {
    comm.all_reduce(h.weight, Reduce::sum);
    comm.all_reduce(h.events, Reduce::sum);
  }
}

void ScoreTable::merge(const ScoreTable& other) {
  if (other.systems_ != systems_ || other.leads_ != leads_ || other.thresholds_ != thresholds_)
    fail(ExitCode::data, "The scores cannot be merged", "their systems, leads or thresholds differ",
         "Verify all parts with the same configuration.");
  for (std::size_t lead = 0; lead < inits_.size(); ++lead) {
    for (const Time init : other.inits_[lead])
      if (inits_[lead].contains(init))
        fail(ExitCode::data, "The scores cannot be merged",
             fmt::format("two of them hold the forecast of {} for {} h", format_time(init), leads_[lead]),
             "Name each score file once, of ranges data.test in which no window ends twice.");
    inits_[lead].insert(other.inits_[lead].begin(), other.inits_[lead].end());
  }
  for (const auto& [at, theirs] : other.days_) {
    Day& mine = day(at);
    for (std::size_t i = 0; i < mine.n_valid.size(); ++i) mine.n_valid[i] += theirs.n_valid[i];
    for (std::size_t i = 0; i < mine.counts.size(); ++i) mine.counts[i].add(theirs.counts[i]);
    for (std::size_t i = 0; i < mine.fractions.size(); ++i) mine.fractions[i].add(theirs.fractions[i]);
  }
  for (std::size_t i = 0; i < histograms_.size(); ++i)
    for (std::size_t v = 0; v < ForecastHistogram::values; ++v) {
      histograms_[i].weight[v] += other.histograms_[i].weight[v];
      histograms_[i].events[v] += other.histograms_[i].events[v];
    }
}

Time ScoreTable::init_of(int lead, Time window_end) const {
  return window_end - static_cast<Time>(std::lround(leads_[static_cast<std::size_t>(lead)] * 3600));
}

std::int64_t ScoreTable::forecasts() const {
  std::set<Time> all;
  for (const std::set<Time>& of_lead : inits_) all.insert(of_lead.begin(), of_lead.end());
  return static_cast<std::int64_t>(all.size());
}

std::vector<Time> ScoreTable::days() const {
  std::vector<Time> out;
  for (const auto& [at, unused] : days_) out.push_back(at);
  return out;
}

const ScoreCounts& ScoreTable::of_day(Time day, int system, int lead, int threshold) const {
  return days_.at(day).counts[at(system, lead, threshold)];
}

const FractionSums& ScoreTable::fractions_of_day(Time day, int lead, int threshold, int width) const {
  return days_.at(day)
      .fractions[(static_cast<std::size_t>(lead) * thresholds_.size() + static_cast<std::size_t>(threshold)) *
                     widths.size() +
                 static_cast<std::size_t>(width)];
}

const ForecastHistogram& ScoreTable::histogram(int system, int lead, int threshold) const {
  return histograms_[at(system, lead, threshold)];
}

std::int64_t ScoreTable::n_valid(int lead) const {
  std::int64_t n = 0;
  for (const auto& [at, day] : days_) n += day.n_valid[static_cast<std::size_t>(lead)];
  return n;
}

std::string ScoreTable::to_json() const {
  nlohmann::json out{{"systems", systems_}, {"leads_hours", leads_}, {"thresholds_mm", thresholds_}};
  out["initial_times"] = nlohmann::json::array();
  for (const std::set<Time>& inits : inits_) {
    nlohmann::json of_lead = nlohmann::json::array();
    for (const Time init : inits) of_lead.push_back(format_time(init));
    out["initial_times"].push_back(of_lead);
  }
  out["days"] = nlohmann::json::array();
  for (const auto& [at, day] : days_) {
    nlohmann::json counts = nlohmann::json::array();
    for (const ScoreCounts& c : day.counts)
      counts.push_back({{"weight", c.weight}, {"events", c.events}, {"square", c.square}});
    nlohmann::json fractions = nlohmann::json::array(); // limbs, so that they merge exactly
    for (const FractionSums& f : day.fractions)
      fractions.push_back(
          {f.miss.high, f.miss.low, f.forecast.high, f.forecast.low, f.observed.high, f.observed.low});
    out["days"].push_back(
        {{"day", format_time(at)}, {"n_valid", day.n_valid}, {"counts", counts}, {"fractions", fractions}});
  }
  // Most of the thousand values are never forecast: only those that are, as [thousandths, weight, events].
  out["histograms"] = nlohmann::json::array();
  for (const ForecastHistogram& h : histograms_) {
    nlohmann::json rows = nlohmann::json::array();
    for (std::size_t v = 0; v < ForecastHistogram::values; ++v)
      if (h.weight[v] != 0) rows.push_back({v, h.weight[v], h.events[v]});
    out["histograms"].push_back(rows);
  }
  return out.dump();
}

ScoreTable ScoreTable::from_json(const std::string& text, const std::string& source) {
  try {
    const auto json = nlohmann::json::parse(text);
    ScoreTable out(json.at("systems"), json.at("leads_hours"), json.at("thresholds_mm"));
    for (std::size_t lead = 0; lead < out.inits_.size(); ++lead)
      for (const auto& init : json.at("initial_times").at(lead))
        out.inits_[lead].insert(parse_time(init.get<std::string>()));
    for (const auto& one : json.at("days")) {
      Day& day = out.day(parse_time(one.at("day").get<std::string>()));
      day.n_valid = one.at("n_valid").get<std::vector<std::int64_t>>();
      day.n_valid.resize(out.leads_.size());
      for (std::size_t i = 0; i < day.counts.size(); ++i) {
        const auto& counts = one.at("counts").at(i);
        for (std::size_t b = 0; b < ScoreCounts::bins; ++b) {
          day.counts[i].weight[b] = counts.at("weight").at(b);
          day.counts[i].events[b] = counts.at("events").at(b);
        }
        day.counts[i].square = counts.at("square");
      }
      for (std::size_t i = 0; i < day.fractions.size(); ++i) {
        const std::vector<std::int64_t> limbs = one.at("fractions").at(i);
        day.fractions[i] = {
            {limbs.at(0), limbs.at(1)}, {limbs.at(2), limbs.at(3)}, {limbs.at(4), limbs.at(5)}};
      }
    }
    for (std::size_t i = 0; i < out.histograms_.size(); ++i)
      for (const auto& row : json.at("histograms").at(i)) {
        const std::size_t v = row.at(0);
        out.histograms_[i].weight.at(v) = row.at(1);
        out.histograms_[i].events.at(v) = row.at(2);
      }
    return out;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ExitCode::data, source + " cannot be read", error.what(), "Verify again.");
  }
}

} // namespace pluvia
