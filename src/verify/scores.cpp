#include "pluvia/verify/scores.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "pluvia/core/random.hpp"

namespace pluvia {

namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t fewest_days = 4; // resamples of fewer are too alike to tell anything

double ratio(double above, double below) {
  return below > 0 ? above / below : undefined;
}

struct Totals {
  double weight = 0, events = 0;
};
Totals totals(const ScoreCounts& c) {
  Totals out;
  for (int b = 0; b < ScoreCounts::bins; ++b) {
    out.weight += static_cast<double>(c.weight[b]);
    out.events += static_cast<double>(c.events[b]);
  }
  return out;
}

ContingencyTable upper_half(const ScoreCounts& c) {
  ContingencyTable t;
  for (int b = 0; b < ScoreCounts::bins; ++b) {
    const auto events = static_cast<double>(c.events[b]), others = static_cast<double>(c.weight[b]) - events;
    (2 * b >= ScoreCounts::bins ? t.hits : t.misses) += events;
    (2 * b >= ScoreCounts::bins ? t.false_alarms : t.correct_negatives) += others;
  }
  return t;
}

std::string upper_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

/// What a draw of days adds up to.
struct DaySums {
  std::vector<ScoreCounts> counts;     // [systems x leads x thresholds]
  std::vector<FractionSums> fractions; // [leads x thresholds x widths]
};

/// Scores that follow from sums over days, in a fixed order, for one draw of days.
std::vector<double> day_scores(const ScoreTable& table, const DaySums& sums_of_days,
                               std::vector<Score>* labels) {
  const std::vector<ScoreCounts>& counts = sums_of_days.counts;
  const int systems = static_cast<int>(table.systems().size()),
            leads = static_cast<int>(table.leads_hours().size()),
            thresholds = static_cast<int>(table.thresholds_mm().size());
  const auto of = [&](int s, int l, int k) -> const ScoreCounts& {
    return counts[static_cast<std::size_t>((s * leads + l) * thresholds + k)];
  };
  const auto& names = table.systems();
  const auto climatology =
      static_cast<int>(std::find(names.begin(), names.end(), "climatology") - names.begin());
  const std::vector<double> widths = crps_widths(table.thresholds_mm());
  std::vector<double> out;
  const auto put = [&](int s, int l, int k, const std::string& name, double value) {
    out.push_back(value);
    if (labels != nullptr) labels->push_back({s, l, k, name, value, undefined, undefined, table.n_valid(l)});
  };
  const auto crps = [&](int s, int l) {
    double sum = 0;
    for (int k = 0; k < thresholds; ++k) sum += widths[static_cast<std::size_t>(k)] * brier(of(s, l, k));
    return sum;
  };
  for (int s = 0; s < systems; ++s)
    for (int l = 0; l < leads; ++l) {
      for (int k = 0; k < thresholds; ++k) {
        const ScoreCounts& c = of(s, l, k);
        const Totals sums = totals(c);
        const double score = brier(c);
        put(s, l, k, "BASER", ratio(sums.events, sums.weight));
        put(s, l, k, "BRIER", score);
        const MurphyPartition parts = murphy_partition(c);
        put(s, l, k, "BRIER_MET", parts.brier);
        put(s, l, k, "RELIABILITY", parts.reliability);
        put(s, l, k, "RESOLUTION", parts.resolution);
        put(s, l, k, "UNCERTAINTY", parts.uncertainty);
        put(s, l, k, "BSS_SMPL", ratio(parts.resolution - parts.reliability, parts.uncertainty));
        for (int r = 1; r < systems; ++r) {
          if (r == s) continue;
          const std::string name =
              r == climatology ? "BSS" : "BSS_" + upper_case(names[static_cast<std::size_t>(r)]);
          put(s, l, k, name, 1 - ratio(score, brier(of(r, l, k))));
        }
        const ContingencyTable t = upper_half(c);
        put(s, l, k, "PODY_P050", pody(t));
        put(s, l, k, "FAR_P050", far_(t));
        put(s, l, k, "CSI_P050", csi(t));
        put(s, l, k, "FBIAS_P050", fbias(t));
        put(s, l, k, "GSS_P050", gss(t));
        for (std::size_t w = 0; s == 0 && w < ScoreTable::widths.size(); ++w)
          put(s, l, k, "FSS_W" + std::to_string(100 + ScoreTable::widths[w]).substr(1),
              fractions_skill(sums_of_days.fractions[static_cast<std::size_t>(l * thresholds + k) *
                                                         ScoreTable::widths.size() +
                                                     w]));
        if (s == 0) put(s, l, k, "UFSS", 0.5 + ratio(sums.events, sums.weight) / 2);
      }
      put(s, l, -1, "CRPS", crps(s, l));
      if (s != climatology && climatology < systems)
        put(s, l, -1, "CRPSS", 1 - ratio(crps(s, l), crps(climatology, l)));
    }
  return out;
}

void add_histogram_scores(const ScoreTable& table, std::vector<Score>& out) {
  for (std::size_t s = 0; s < table.systems().size(); ++s)
    for (std::size_t l = 0; l < table.leads_hours().size(); ++l)
      for (std::size_t k = 0; k < table.thresholds_mm().size(); ++k) {
        const int system = static_cast<int>(s), lead = static_cast<int>(l), threshold = static_cast<int>(k);
        const ForecastHistogram& h = table.histogram(system, lead, threshold);
        const auto put = [&](const std::string& name, double value) {
          out.push_back({system, lead, threshold, name, value, undefined, undefined, table.n_valid(lead)});
        };
        put("ROC_AUC", roc_area(h));
        int best = 500;
        double best_csi = -1;
        for (int v = 1; v < ForecastHistogram::values; ++v) {
          const double value = csi(contingency(h, v));
          if (value > best_csi) best = v, best_csi = value;
        }
        const ContingencyTable t = contingency(h, best);
        put("P_BEST", best_csi < 0 ? undefined : best / 1000.0);
        put("PODY_PBEST", pody(t));
        put("FAR_PBEST", far_(t));
        put("CSI_PBEST", csi(t));
        put("FBIAS_PBEST", fbias(t));
        put("GSS_PBEST", gss(t));
        for (const int a : {20, 50, 100, 200, 500}) {
          const std::string digits = std::to_string(1000 + a).substr(1);
          put("ECLV_A" + digits, economic_value(h, a / 1000.0));
        }
      }
}

} // namespace

double brier(const ScoreCounts& c) {
  return ratio(static_cast<double>(c.square) * 1e-6, totals(c).weight);
}

double fractions_skill(const FractionSums& sums) {
  return 1 - ratio(sums.miss.value(), sums.forecast.value() + sums.observed.value());
}

MurphyPartition murphy_partition(const ScoreCounts& c) {
  const Totals sums = totals(c);
  if (sums.weight <= 0) return {undefined, undefined, undefined, undefined};
  const double base = sums.events / sums.weight;
  MurphyPartition out{0, 0, 0, base * (1 - base)};
  for (int b = 0; b < ScoreCounts::bins; ++b) {
    const auto w = static_cast<double>(c.weight[b]), e = static_cast<double>(c.events[b]);
    if (w <= 0) continue;
    const double midpoint = (b + 0.5) / ScoreCounts::bins, frequency = e / w;
    out.reliability += w * (midpoint - frequency) * (midpoint - frequency) / sums.weight;
    out.resolution += w * (frequency - base) * (frequency - base) / sums.weight;
    out.brier += (e * (1 - midpoint) * (1 - midpoint) + (w - e) * midpoint * midpoint) / sums.weight;
  }
  return out;
}

double roc_area(const ForecastHistogram& h) {
  double events = 0, others = 0, area = 0;
  for (std::size_t v = 0; v < ForecastHistogram::values; ++v) {
    const auto e = static_cast<double>(h.events[v]), n = static_cast<double>(h.weight[v]) - e;
    area += e * (others + 0.5 * n); // non-events with lower forecasts, and half of those with the same
    events += e, others += n;
  }
  return ratio(area, events * others);
}

ContingencyTable contingency(const ForecastHistogram& h, int thousandths) {
  ContingencyTable t;
  for (int v = 0; v < ForecastHistogram::values; ++v) {
    const auto i = static_cast<std::size_t>(v);
    const auto e = static_cast<double>(h.events[i]), n = static_cast<double>(h.weight[i]) - e;
    (v >= thousandths ? t.hits : t.misses) += e;
    (v >= thousandths ? t.false_alarms : t.correct_negatives) += n;
  }
  return t;
}

double pody(const ContingencyTable& t) {
  return ratio(t.hits, t.hits + t.misses);
}
double pofd(const ContingencyTable& t) {
  return ratio(t.false_alarms, t.false_alarms + t.correct_negatives);
}
double far_(const ContingencyTable& t) {
  return ratio(t.false_alarms, t.hits + t.false_alarms);
}
double csi(const ContingencyTable& t) {
  return ratio(t.hits, t.hits + t.misses + t.false_alarms);
}
double fbias(const ContingencyTable& t) {
  return ratio(t.hits + t.false_alarms, t.hits + t.misses);
}

double gss(const ContingencyTable& t) {
  const double n = t.hits + t.false_alarms + t.misses + t.correct_negatives;
  const double chance = ratio((t.hits + t.false_alarms) * (t.hits + t.misses), n);
  return ratio(t.hits - chance, t.hits + t.misses + t.false_alarms - chance);
}

double economic_value(const ForecastHistogram& h, double a) {
  const ContingencyTable t = contingency(h, static_cast<int>(std::lround(1000 * a)));
  const double n = t.hits + t.false_alarms + t.misses + t.correct_negatives;
  const double s = ratio(t.hits + t.misses, n);
  const double expense = a * ratio(t.hits + t.false_alarms, n) + ratio(t.misses, n);
  return ratio(std::min(a, s) - expense, std::min(a, s) - a * s);
}

std::vector<double> crps_widths(const std::vector<double>& thresholds_mm) {
  std::vector<double> out;
  for (std::size_t k = 0; k < thresholds_mm.size(); ++k) {
    const double below = k == 0 ? 0 : thresholds_mm[k - 1];
    const double above = k + 1 < thresholds_mm.size() ? thresholds_mm[k + 1] : thresholds_mm[k];
    out.push_back((above - below) / 2);
  }
  return out;
}

std::vector<Score> all_scores(const ScoreTable& table, int resamples) {
  const std::vector<Time> days = table.days();
  const auto combine = [&](const std::vector<std::int64_t>& times) {
    DaySums sums;
    const auto ints = [](std::size_t i) { return static_cast<int>(i); };
    for (std::size_t s = 0; s < table.systems().size(); ++s)
      for (std::size_t l = 0; l < table.leads_hours().size(); ++l)
        for (std::size_t k = 0; k < table.thresholds_mm().size(); ++k) {
          ScoreCounts& sum = sums.counts.emplace_back();
          for (std::size_t d = 0; d < days.size(); ++d)
            if (times[d] != 0) sum.add(table.of_day(days[d], ints(s), ints(l), ints(k)), times[d]);
        }
    for (std::size_t l = 0; l < table.leads_hours().size(); ++l)
      for (std::size_t k = 0; k < table.thresholds_mm().size(); ++k)
        for (std::size_t w = 0; w < ScoreTable::widths.size(); ++w) {
          FractionSums& sum = sums.fractions.emplace_back();
          for (std::size_t d = 0; d < days.size(); ++d)
            if (times[d] != 0) sum.add(table.fractions_of_day(days[d], ints(l), ints(k), ints(w)), times[d]);
        }
    return sums;
  };
  std::vector<Score> out;
  day_scores(table, combine(std::vector<std::int64_t>(days.size(), 1)), &out);
  if (days.size() >= fewest_days && resamples > 0) {
    std::vector<std::vector<double>> draws(out.size());
    for (int r = 0; r < resamples; ++r) {
      std::vector<std::int64_t> times(days.size());
      for (std::size_t d = 0; d < days.size(); ++d)
        ++times[random_below(days.size(), 1, RandomPurpose::bootstrap, d, static_cast<std::uint64_t>(r))];
      const std::vector<double> values = day_scores(table, combine(times), nullptr);
      for (std::size_t i = 0; i < values.size(); ++i)
        if (!std::isnan(values[i])) draws[i].push_back(values[i]);
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      // A score that most draws leave undefined (no event on most days) has no interval.
      if (2 * draws[i].size() < static_cast<std::size_t>(resamples) || std::isnan(out[i].value)) continue;
      std::sort(draws[i].begin(), draws[i].end());
      const auto quantile = [&](double q) {
        const double position = q * static_cast<double>(draws[i].size() - 1);
        const auto below = static_cast<std::size_t>(position),
                   above = std::min(below + 1, draws[i].size() - 1);
        return draws[i][below] +
               (position - static_cast<double>(below)) * (draws[i][above] - draws[i][below]);
      };
      out[i].lower = quantile(0.025), out[i].upper = quantile(0.975);
    }
  }
  add_histogram_scores(table, out);
  return out;
}

} // namespace pluvia
