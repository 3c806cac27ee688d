#include "pluvia/model/calibration.hpp"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

constexpr std::int64_t enough_events = 200;

std::size_t at(int lead, int threshold, int thresholds) {
  return static_cast<std::size_t>(lead) * static_cast<std::size_t>(thresholds) +
         static_cast<std::size_t>(threshold);
}

float shrink(float a, float climatology, float probability) {
  // Written so that a = 1 gives the probability itself, to the bit.
  return a * probability + (1.0F - a) * climatology;
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

ShrinkageSums::ShrinkageSums(int leads, int thresholds)
    : leads_(leads), thresholds_(thresholds), cross_(at(leads, 0, thresholds)), square_(cross_.size()) {}

void ShrinkageSums::add(int lead, const LabelledForecast& f) {
  const std::size_t cells = f.observed.size();
  for (int k = 0; k < thresholds_; ++k) {
    FixedSum cross, square;
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const double p = f.probability[static_cast<std::size_t>(k) * cells + cell];
      if (f.observed[cell] < 0 || std::isnan(p)) continue;
      const double climatology = f.climatology[static_cast<std::size_t>(k) * cells + cell];
      const double o = f.observed[cell] > k ? 1 : 0, d = p - climatology;
      cross.add(f.area[cell] * d * (o - climatology));
      square.add(f.area[cell] * d * d);
    }
    cross.carry(), square.carry();
    cross_[at(lead, k, thresholds_)].add(cross);
    square_[at(lead, k, thresholds_)].add(square);
  }
}

void ShrinkageSums::reduce(const Communicator& comm) {
  all_reduce(comm, cross_);
  all_reduce(comm, square_);
}

ReliabilityCounts::ReliabilityCounts(int leads, int thresholds)
    : leads_(leads), thresholds_(thresholds), events_(at(leads, 0, thresholds)),
      bins_(events_.size() * bins) {}

void ReliabilityCounts::add(const Calibration& shrinkage, int lead, const LabelledForecast& f) {
  const std::size_t cells = f.observed.size();
  for (int k = 0; k < thresholds_; ++k) {
    const std::size_t i = at(lead, k, thresholds_);
    const float a = shrinkage.shrinkage[i];
    Bin* row = bins_.data() + i * bins;
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const std::size_t j = static_cast<std::size_t>(k) * cells + cell;
      if (f.observed[cell] < 0 || std::isnan(f.probability[j])) continue;
      const float p = shrink(a, f.climatology[j], f.probability[j]);
      const bool event = f.observed[cell] > k;
      Bin& bin = row[bin_of(p)];
      bin.weight.add(f.area[cell]);
      bin.probability.add(static_cast<double>(f.area[cell]) * p);
      if (event) bin.events.add(f.area[cell]), ++events_[i];
    }
    for (int b = 0; b < bins; ++b) row[b].weight.carry(), row[b].events.carry(), row[b].probability.carry();
  }
}

void ReliabilityCounts::reduce(const Communicator& comm) {
  comm.all_reduce(events_, Reduce::sum);
  std::vector<FixedSum> sums;
  for (const Bin& bin : bins_) sums.insert(sums.end(), {bin.weight, bin.events, bin.probability});
  all_reduce(comm, sums);
  for (std::size_t i = 0; i < bins_.size(); ++i) bins_[i] = {sums[3 * i], sums[3 * i + 1], sums[3 * i + 2]};
}

Calibration fit_shrinkage(const ShrinkageSums& sums) {
  Calibration out{sums.leads_, sums.thresholds_, {}, std::vector<Calibration::Curve>(sums.square_.size())};
  for (std::size_t i = 0; i < sums.square_.size(); ++i) {
    const double square = sums.square_[i].value();
    out.shrinkage.push_back(
        square > 0 ? static_cast<float>(std::clamp(sums.cross_[i].value() / square, 0.0, 1.0)) : 1.0F);
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

void fit_isotonic(Calibration& calibration, const ReliabilityCounts& counts) {
  const int leads = counts.leads_, thresholds = counts.thresholds_;
  for (int k = 0; k < thresholds; ++k) {
    std::vector<ReliabilityCounts::Bin> pooled(ReliabilityCounts::bins);
    std::int64_t pooled_events = 0;
    for (int lead = 0; lead < leads; ++lead) {
      pooled_events += counts.events_[at(lead, k, thresholds)];
      for (std::size_t b = 0; b < pooled.size(); ++b) {
        const auto& bin = counts.bins_[at(lead, k, thresholds) * pooled.size() + b];
        pooled[b].weight.add(bin.weight), pooled[b].events.add(bin.events);
        pooled[b].probability.add(bin.probability);
      }
    }
    for (int lead = 0; lead < leads; ++lead) {
      const std::size_t i = at(lead, k, thresholds);
      const bool own = counts.events_[i] >= enough_events;
      if (!own && pooled_events < enough_events) continue;
      const auto* own_bins = counts.bins_.data() + i * pooled.size();
      const auto* fitted_bins = own ? own_bins : pooled.data();
      std::vector<double> from, frequency, weight;
      for (std::size_t b = 0; b < pooled.size(); ++b) {
        const double w = fitted_bins[b].weight.value();
        if (w <= 0) continue;
        weight.push_back(w);
        from.push_back(fitted_bins[b].probability.value() / w);
        frequency.push_back(std::clamp(fitted_bins[b].events.value() / w, 0.0, 1.0));
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
      // The change of the Brier score on this lead's own forecasts, up to what varies within a bin:
      // sum w ((g - o)^2 - (p - o)^2) = sum w (g^2 - p^2) - 2 w_event (g - p).
      double change = 0;
      for (std::size_t b = 0; b < pooled.size(); ++b) {
        const double w = own_bins[b].weight.value();
        if (w <= 0) continue;
        const double p = own_bins[b].probability.value() / w, g = map_through(curve, static_cast<float>(p));
        change += w * (g * g - p * p) - 2 * own_bins[b].events.value() * (g - p);
      }
      if (change < 0) calibration.curves[i] = std::move(curve);
    }
  }
}

void calibrate(const Calibration& calibration, int lead, std::span<const float> climatology,
               std::span<float> probability) {
  const std::size_t cells = probability.size() / static_cast<std::size_t>(calibration.thresholds);
  for (int k = 0; k < calibration.thresholds; ++k) {
    const std::size_t i = at(lead, k, calibration.thresholds), first = static_cast<std::size_t>(k) * cells;
#pragma omp parallel for schedule(static)
    for (std::size_t cell = 0; cell < cells; ++cell) {
      float& p = probability[first + cell];
      if (std::isnan(p)) continue;
      p = map_through(calibration.curves[i], shrink(calibration.shrinkage[i], climatology[first + cell], p));
      if (k > 0) p = std::min(p, probability[first - cells + cell]);
    }
  }
}

std::string to_json(const Calibration& calibration) {
  nlohmann::json out{{"leads", calibration.leads},
                     {"thresholds", calibration.thresholds},
                     {"shrinkage", calibration.shrinkage},
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
    for (const auto& curve : json.at("curves")) out.curves.push_back({curve.at("from"), curve.at("to")});
    const std::size_t n = at(out.leads, 0, out.thresholds);
    good =
        out.leads > 0 && out.thresholds > 0 && out.shrinkage.size() == n && out.curves.size() == n &&
        std::all_of(out.curves.begin(), out.curves.end(), [](const auto& curve) {
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
