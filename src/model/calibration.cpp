#include "pluvia/model/calibration.hpp"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

constexpr std::int64_t enough_events = 200;
constexpr double spread_between_days = 0.07, blocks_per_day = 4;

/// How far a gain in Brier skill is to be trusted.
double credibility(double gain, double noise) {
  return gain > 0 ? gain * gain / (gain * gain + noise * noise) : 0.0;
}

std::size_t at(int lead, int threshold, int thresholds) {
  return static_cast<std::size_t>(lead) * static_cast<std::size_t>(thresholds) +
         static_cast<std::size_t>(threshold);
}

float shrink(float a, float base, float probability) {
  // Written so that a = 1 gives the probability itself, to the bit.
  return a * probability + (1.0F - a) * base;
}

float map_through(const Calibration::Curve& curve, float p) {
  if (curve.from.empty()) return p;
  const auto above = std::upper_bound(curve.from.begin(), curve.from.end(), p);
  if (above == curve.from.begin()) return curve.to.front();
  if (above == curve.from.end()) return curve.to.back();
  const auto i = static_cast<std::size_t>(above - curve.from.begin());
  const float share = (p - curve.from[i - 1]) / (curve.from[i] - curve.from[i - 1]);
  return curve.to[i - 1] + share * (curve.to[i] - curve.to[i - 1]);
}

int bin_of(float p) {
  return std::clamp(static_cast<int>(std::sqrt(p) * ReliabilityCounts::bins), 0, ReliabilityCounts::bins - 1);
}

} // namespace

ShrinkageSums::ShrinkageSums(int leads, int thresholds) : leads_(leads), thresholds_(thresholds) {}

void ShrinkageSums::add(int lead, std::int64_t block, const LabelledForecast& f) {
  open(block);
  std::vector<Sums>& block_sums = blocks_[block];
  const std::size_t cells = f.observed.size();
  for (int k = 0; k < thresholds_; ++k) {
    Sums sums;
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const double p = f.probability[static_cast<std::size_t>(k) * cells + cell];
      if (f.observed[cell] < 0 || std::isnan(p)) continue;
      const double base = f.base[static_cast<std::size_t>(k) * cells + cell];
      const double o = f.observed[cell] > k ? 1 : 0, d = p - base;
      sums.cross.add(f.area[cell] * d * (o - base));
      sums.square.add(f.area[cell] * d * d);
      sums.reference.add(f.area[cell] * (o - base) * (o - base));
    }
    Sums& to = block_sums[at(lead, k, thresholds_)];
    for (auto [into, from] : {std::pair{&to.cross, &sums.cross}, std::pair{&to.square, &sums.square},
                              std::pair{&to.reference, &sums.reference}}) {
      from->carry();
      into->add(*from);
      into->carry();
    }
  }
}

void ShrinkageSums::open(std::int64_t block) {
  blocks_[block].resize(at(leads_, 0, thresholds_));
}

void ShrinkageSums::reduce(const Communicator& comm) {
  std::vector<FixedSum> all;
  for (const auto& [block, sums] : blocks_)
    for (const Sums& s : sums) all.insert(all.end(), {s.cross, s.square, s.reference});
  all_reduce(comm, all);
  auto from = all.cbegin();
  for (auto& [block, sums] : blocks_)
    for (Sums& s : sums) {
      s = {from[0], from[1], from[2]};
      from += 3;
    }
}

ReliabilityCounts::ReliabilityCounts(int leads, int thresholds)
    : leads_(leads), thresholds_(thresholds), reference_(at(leads, 0, thresholds)),
      events_(reference_.size()) {}

void ReliabilityCounts::add(const Calibration& shrinkage, int lead, std::int64_t block,
                            const LabelledForecast& f) {
  open(block);
  std::vector<Bin>& block_bins = blocks_[block];
  const std::size_t cells = f.observed.size();
  for (int k = 0; k < thresholds_; ++k) {
    const std::size_t i = at(lead, k, thresholds_);
    const float a = shrinkage.shrinkage[i];
    Bin* row = block_bins.data() + i * bins;
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const std::size_t j = static_cast<std::size_t>(k) * cells + cell;
      if (f.observed[cell] < 0 || std::isnan(f.probability[j])) continue;
      const float p = shrink(a, f.base[j], f.probability[j]);
      const bool event = f.observed[cell] > k;
      Bin& bin = row[bin_of(p)];
      bin.weight.add(f.area[cell]);
      bin.probability.add(static_cast<double>(f.area[cell]) * p);
      if (event) bin.events.add(f.area[cell]), ++events_[i];
      const double miss = static_cast<double>(f.base[j]) - (event ? 1 : 0);
      reference_[i].add(f.area[cell] * miss * miss);
    }
    reference_[i].carry();
    for (int b = 0; b < bins; ++b) row[b].weight.carry(), row[b].events.carry(), row[b].probability.carry();
  }
}

void ReliabilityCounts::open(std::int64_t block) {
  blocks_[block].resize(events_.size() * bins);
}

void ReliabilityCounts::reduce(const Communicator& comm) {
  comm.all_reduce(events_, Reduce::sum);
  all_reduce(comm, reference_);
  std::vector<FixedSum> sums;
  for (const auto& [block, block_bins] : blocks_)
    for (const Bin& bin : block_bins) sums.insert(sums.end(), {bin.weight, bin.events, bin.probability});
  all_reduce(comm, sums);
  auto from = sums.cbegin();
  for (auto& [block, block_bins] : blocks_)
    for (Bin& bin : block_bins) {
      bin = {from[0], from[1], from[2]};
      from += 3;
    }
}

Calibration fit_shrinkage(const ShrinkageSums& sums) {
  const std::size_t n = at(sums.leads_, 0, sums.thresholds_);
  Calibration out{sums.leads_, sums.thresholds_, {}, {}, std::vector<Calibration::Curve>(n)};
  const auto blocks = static_cast<double>(sums.blocks_.size());
  for (std::size_t i = 0; i < n; ++i) {
    double cross = 0, square = 0, reference = 0;
    for (const auto& [block, s] : sums.blocks_) {
      cross += s[i].cross.value(), square += s[i].square.value(), reference += s[i].reference.value();
    }
    const double a = square > 0 ? std::clamp(cross / square, 0.0, 1.0) : 1.0;
    // By how much forecasts shrunk by a beat the network's own, in Brier skill.
    const auto gain = [a](double c, double q, double r) {
      return r > 0 ? (a * (2 * c - a * q) - (2 * c - q)) / r : 0.0;
    };
    double mean = 0, squares = 0; // of the gain without one block
    for (const auto& [block, s] : sums.blocks_) {
      const double without =
          gain(cross - s[i].cross.value(), square - s[i].square.value(), reference - s[i].reference.value());
      mean += without / blocks, squares += without * without / blocks;
    }
    const double jackknife = (blocks - 1) * std::max(0.0, squares - mean * mean);
    const double noise =
        std::sqrt(spread_between_days * spread_between_days * blocks_per_day / blocks + jackknife);
    out.noise.push_back(static_cast<float>(noise));
    const double trust = credibility(gain(cross, square, reference), noise);
    out.shrinkage.push_back(static_cast<float>(1 + trust * (a - 1)));
  }
  return out;
}

std::vector<double> isotonic(std::span<const double> values, std::span<const double> weights) {
  struct Block {
    double value, weight;
    std::size_t length;
  };
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < values.size(); ++i) {
    blocks.push_back({values[i], weights[i], 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].value > blocks.back().value) {
      const Block last = blocks.back();
      blocks.pop_back();
      Block& into = blocks.back();
      into.value = (into.value * into.weight + last.value * last.weight) / (into.weight + last.weight);
      into.weight += last.weight;
      into.length += last.length;
    }
  }
  std::vector<double> out;
  for (const Block& block : blocks) out.insert(out.end(), block.length, block.value);
  return out;
}

namespace {

/// Sums of one bin, of one lead or of all, of one block or of several.
struct Sums {
  double weight = 0, events = 0, probability = 0;
  Sums& operator+=(const Sums& o) {
    weight += o.weight, events += o.events, probability += o.probability;
    return *this;
  }
  Sums& operator-=(const Sums& o) {
    weight -= o.weight, events -= o.events, probability -= o.probability;
    return *this;
  }
};
using Histogram = std::vector<Sums>;

/// The isotonic regression of outcomes on binned probabilities.
Calibration::Curve fit_curve(const Histogram& bins) {
  std::vector<double> from, frequency, weight;
  for (const Sums& bin : bins) {
    if (bin.weight <= 0) continue;
    weight.push_back(bin.weight);
    from.push_back(bin.probability / bin.weight);
    frequency.push_back(std::clamp(bin.events / bin.weight, 0.0, 1.0));
  }
  const std::vector<double> to = isotonic(frequency, weight);
  Calibration::Curve curve;
  for (std::size_t b = 0; b < from.size(); ++b) {
    const auto x = static_cast<float>(from[b]);
    // Means of neighbouring bins may meet in f32; a curve needs distinct knots.
    if (!curve.from.empty() && x <= curve.from.back()) continue;
    curve.from.push_back(x);
    curve.to.push_back(static_cast<float>(to[b]));
  }
  return curve;
}

/// What a curve lowers the summed squared error of forecasts by, up to what varies within a bin:
/// sum w ((p - o)^2 - (g - o)^2) = sum w (p^2 - g^2) + 2 w_event (g - p).
double gain_of(const Calibration::Curve& curve, const Histogram& bins) {
  double gain = 0;
  for (const Sums& bin : bins) {
    if (bin.weight <= 0) continue;
    const double p = bin.probability / bin.weight, g = map_through(curve, static_cast<float>(p));
    gain += bin.weight * (p * p - g * g) + 2 * bin.events * (g - p);
  }
  return gain;
}

} // namespace

void fit_isotonic(Calibration& calibration, const ReliabilityCounts& counts) {
  const int leads = counts.leads_, thresholds = counts.thresholds_;
  constexpr auto bins = static_cast<std::size_t>(ReliabilityCounts::bins);
  for (int k = 0; k < thresholds; ++k) {
    std::int64_t pooled_events = 0;
    for (int lead = 0; lead < leads; ++lead) pooled_events += counts.events_[at(lead, k, thresholds)];
    for (int lead = 0; lead < leads; ++lead) {
      const std::size_t i = at(lead, k, thresholds);
      const bool own = counts.events_[i] >= enough_events;
      if (!own && pooled_events < enough_events) continue;
      // Per block: this lead's forecasts, and those the curve is fitted to.
      std::vector<Histogram> mine, fitted;
      Histogram all(bins);
      for (const auto& [block, block_bins] : counts.blocks_) {
        mine.emplace_back(bins), fitted.emplace_back(bins);
        for (std::size_t b = 0; b < bins; ++b) {
          const auto sums = [&](int of) {
            const auto& bin = block_bins[at(of, k, thresholds) * bins + b];
            return Sums{bin.weight.value(), bin.events.value(), bin.probability.value()};
          };
          mine.back()[b] = sums(lead);
          if (own)
            fitted.back()[b] = mine.back()[b];
          else
            for (int of = 0; of < leads; ++of) fitted.back()[b] += sums(of);
          all[b] += fitted.back()[b];
        }
      }
      // The gain on every block of the curve that the other blocks give: what it does to days it has not
      // seen.
      double gain = 0;
      for (std::size_t block = 0; block < mine.size(); ++block) {
        Histogram others = all;
        for (std::size_t b = 0; b < bins; ++b)
          if (fitted[block][b].weight > 0) others[b] -= fitted[block][b];
        const Calibration::Curve without = fit_curve(others);
        if (!without.from.empty()) gain += gain_of(without, mine[block]);
      }
      const double reference = counts.reference_[i].value();
      if (mine.size() < 2 || gain <= 0 || reference <= 0) continue;

      Calibration::Curve curve = fit_curve(all);
      // The fit is constant beyond its ends; between it and the identity lies a slope there.
      if (curve.from.front() > 0.0F) {
        curve.from.insert(curve.from.begin(), 0.0F);
        curve.to.insert(curve.to.begin(), curve.to.front());
      }
      if (curve.from.back() < 1.0F) {
        curve.from.push_back(1.0F);
        curve.to.push_back(curve.to.back());
      }
      const auto trust = static_cast<float>(credibility(gain / reference, calibration.noise[i]));
      for (std::size_t b = 0; b < curve.from.size(); ++b)
        curve.to[b] = shrink(trust, curve.from[b], curve.to[b]);
      calibration.curves[i] = std::move(curve);
    }
  }
}

void calibrate(const Calibration& calibration, int lead, std::span<const float> base,
               std::span<float> probability) {
  const std::size_t cells = probability.size() / static_cast<std::size_t>(calibration.thresholds);
  for (int k = 0; k < calibration.thresholds; ++k) {
    const std::size_t i = at(lead, k, calibration.thresholds), first = static_cast<std::size_t>(k) * cells;
#pragma omp parallel for schedule(static)
    for (std::size_t cell = 0; cell < cells; ++cell) {
      float& p = probability[first + cell];
      if (std::isnan(p)) continue;
      p = map_through(calibration.curves[i], shrink(calibration.shrinkage[i], base[first + cell], p));
      if (k > 0) p = std::min(p, probability[first - cells + cell]);
    }
  }
}

std::string to_json(const Calibration& calibration) {
  nlohmann::json out{{"leads", calibration.leads},
                     {"thresholds", calibration.thresholds},
                     {"shrinkage", calibration.shrinkage},
                     {"noise", calibration.noise},
                     {"curves", nlohmann::json::array()}};
  for (const Calibration::Curve& curve : calibration.curves)
    out["curves"].push_back({{"from", curve.from}, {"to", curve.to}});
  return out.dump();
}

Calibration calibration_from_json(const std::string& text) {
  Calibration out;
  std::string why = "its parts do not fit together";
  bool good = false;
  try {
    const auto json = nlohmann::json::parse(text);
    out.leads = json.at("leads");
    out.thresholds = json.at("thresholds");
    out.shrinkage = json.at("shrinkage").get<std::vector<float>>();
    out.noise = json.at("noise").get<std::vector<float>>();
    for (const auto& curve : json.at("curves")) out.curves.push_back({curve.at("from"), curve.at("to")});
    const std::size_t n = at(out.leads, 0, out.thresholds);
    good =
        out.leads > 0 && out.thresholds > 0 && out.shrinkage.size() == n && out.noise.size() == n &&
        out.curves.size() == n && std::all_of(out.curves.begin(), out.curves.end(), [](const auto& curve) {
          return curve.from.size() == curve.to.size() && std::is_sorted(curve.from.begin(), curve.from.end());
        });
  } catch (const nlohmann::json::exception& error) {
    why = error.what();
  }
  if (!good)
    fail(ExitCode::data, "The calibration cannot be read", why, "Train again, or use another checkpoint.");
  return out;
}

} // namespace pluvia
