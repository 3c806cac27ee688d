#include "pluvia/model/climatology.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <string>

#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"

namespace pluvia {

namespace {

constexpr std::size_t windows_tried = 48; // to choose alpha
constexpr int taps = 2 * Climatology::smoothing_radius + 1;

std::array<float, taps> gaussian_taps() {
  std::array<double, taps> weights{};
  double sum = 0;
  for (int i = 0; i < taps; ++i) {
    const double d = (i - Climatology::smoothing_radius) / Climatology::sigma;
    sum += weights[static_cast<std::size_t>(i)] = std::exp(-0.5 * d * d);
  }
  std::array<float, taps> out{};
  for (std::size_t i = 0; i < taps; ++i) out[i] = static_cast<float>(weights[i] / sum);
  return out;
}

Time floor_div(Time a, Time b) {
  return a / b - (a % b < 0 ? 1 : 0);
}

int hour_of_day(Time end) {
  const Time hour = floor_div(end + 1800, 3600);
  return static_cast<int>(hour - floor_div(hour, 24) * 24);
}

bool neighbouring_hours(int a, int b) {
  const int d = std::abs(a - b);
  return d <= 1 || d == Climatology::hours - 1;
}

/// Counts [cells x classes] to probabilities, in place.
void shrink(std::vector<float>& counts, const std::vector<float>& mean, float alpha) {
  const std::size_t n = mean.size(), cells = counts.size() / n;
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < cells; ++i) {
    float* cell = counts.data() + i * n;
    float sum = 0;
    for (std::size_t k = 0; k < n; ++k) sum += cell[k];
    for (std::size_t k = 0; k < n; ++k) cell[k] = (cell[k] + alpha * mean[k]) / (sum + alpha);
  }
}

} // namespace

std::vector<float> exceedance(const std::vector<float>& class_probabilities, int classes) {
  const auto n = static_cast<std::size_t>(classes), cells = class_probabilities.size() / n;
  std::vector<float> out((n - 1) * cells);
  for (std::size_t cell = 0; cell < cells; ++cell) {
    float sum = 0;
    for (std::size_t k = n - 1; k > 0; --k) {
      sum += class_probabilities[cell * n + k];
      out[(k - 1) * cells + cell] = std::min(sum, 1.0F);
    }
  }
  return out;
}

std::vector<Time> whole_hour_windows(const TimeSpan& span, Time window) {
  std::vector<Time> ends;
  for (Time end = -floor_div(-(span.from + window), 3600) * 3600; end < span.to; end += 3600)
    ends.push_back(end);
  return ends;
}

Rect Climatology::grown(const Rect& tile, const Rect& domain) {
  return intersect(domain, {tile.y0 - smoothing_radius, tile.y1 + smoothing_radius,
                            tile.x0 - smoothing_radius, tile.x1 + smoothing_radius});
}

Climatology Climatology::from_windows(const Communicator& comm, const Rect& domain, const Rect& tile,
                                      Time window, int classes, std::vector<ObservedWindow> windows) {
  Climatology out;
  out.classes_ = classes;
  out.window_ = window;
  out.tile_ = tile;
  out.grown_ = grown(tile, domain);
  out.windows_ = std::move(windows);
  const auto n = static_cast<std::size_t>(classes);
  const auto cells = static_cast<std::size_t>(out.grown_.cells());
  out.counts_.assign(hours, std::vector<std::int32_t>(cells * n, 0));
  std::vector<std::int64_t> own(out.windows_.size() * n, 0);
  for (std::size_t w = 0; w < out.windows_.size(); ++w) {
    const ObservedWindow& observed = out.windows_[w];
    if (observed.classes.empty()) continue;
    std::vector<std::int32_t>& counts = out.counts_[static_cast<std::size_t>(hour_of_day(observed.end))];
    for (Index y = out.grown_.y0; y < out.grown_.y1; ++y)
      for (Index x = out.grown_.x0; x < out.grown_.x1; ++x) {
        const auto cell =
            static_cast<std::size_t>((y - out.grown_.y0) * out.grown_.width() + x - out.grown_.x0);
        const std::int8_t k = observed.classes[cell];
        if (k < 0) continue;
        ++counts[cell * n + static_cast<std::size_t>(k)];
        // Only the tile itself enters the domain's counts, or neighbours would be counted twice.
        if (y >= tile.y0 && y < tile.y1 && x >= tile.x0 && x < tile.x1)
          ++own[w * n + static_cast<std::size_t>(k)];
      }
  }
  comm.all_reduce(own, Reduce::sum);
  out.domain_counts_.assign(n, 0);
  for (std::size_t w = 0; w < out.windows_.size(); ++w) {
    out.window_counts_.emplace_back(own.begin() + static_cast<std::ptrdiff_t>(w * n),
                                    own.begin() + static_cast<std::ptrdiff_t>((w + 1) * n));
    for (std::size_t k = 0; k < n; ++k) out.domain_counts_[k] += out.window_counts_.back()[k];
  }
  if (std::all_of(out.domain_counts_.begin(), out.domain_counts_.end(),
                  [](auto count) { return count == 0; }))
    fail(ExitCode::data, "There is no climatology",
         "none of " + std::to_string(out.windows_.size()) +
             " accumulation windows of the training range has data",
         "Widen data.train, or check data.target and data.archive.");
  out.choose_alpha(comm);
  return out;
}

std::vector<float> Climatology::counts_around(int hour) const {
  std::vector<float> sum(static_cast<std::size_t>(grown_.cells()) * static_cast<std::size_t>(classes_), 0.0F);
  for (int h = hour + hours - 1; h <= hour + hours + 1; ++h) {
    const std::vector<std::int32_t>& counts = counts_[static_cast<std::size_t>(h % hours)];
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<float>(counts[i]);
  }
  return sum;
}

std::vector<float> Climatology::counts_without(Time end, const DayDraw& days,
                                               std::vector<std::int64_t>& domain_counts) const {
  const auto uniform = [&](std::uint64_t index) {
    return random_uniform(days.seed, RandomPurpose::climatology, index, days.sample);
  };
  const double share = days.most > 0 ? days.most * uniform(0) : 0;
  const int hour = hour_of_day(end);
  const auto n = static_cast<std::size_t>(classes_);
  std::vector<float> sum = counts_around(hour);
  domain_counts = domain_counts_;
  // Counts are whole numbers far below 2^24, so that taking away in f32 is exact.
  for (std::size_t w = 0; w < windows_.size(); ++w) {
    const bool near = std::abs(windows_[w].end - end) < window_ + separation;
    const auto day = static_cast<std::uint64_t>(floor_div(windows_[w].end, 86400));
    if (!near && (share == 0 || uniform(1 + day) >= share)) continue;
    for (std::size_t k = 0; k < n; ++k) domain_counts[k] -= window_counts_[w][k];
    const std::vector<std::int8_t>& classes = windows_[w].classes;
    if (classes.empty() || !neighbouring_hours(hour_of_day(windows_[w].end), hour)) continue;
    for (std::size_t cell = 0; cell < classes.size(); ++cell)
      if (classes[cell] >= 0) sum[cell * n + static_cast<std::size_t>(classes[cell])] -= 1.0F;
  }
  return sum;
}

std::vector<float> Climatology::mean(const std::vector<std::int64_t>& domain_counts) const {
  double total = 0.5 * static_cast<double>(classes_);
  for (const std::int64_t count : domain_counts) total += static_cast<double>(count);
  std::vector<float> out;
  for (const std::int64_t count : domain_counts)
    out.push_back(static_cast<float>((static_cast<double>(count) + 0.5) / total));
  return out;
}

std::vector<float> Climatology::probabilities(Time end) const {
  std::vector<float> out = smooth(counts_around(hour_of_day(end)));
  shrink(out, mean(domain_counts_), alpha_);
  return out;
}

std::vector<float> Climatology::probabilities_without(Time end, const DayDraw& days) const {
  std::vector<std::int64_t> domain_counts;
  std::vector<float> counts = counts_without(end, days, domain_counts);
  if (std::ranges::all_of(domain_counts, [](auto count) { return count == 0; }))
    counts = counts_without(end, {}, domain_counts);
  std::vector<float> out = smooth(counts);
  shrink(out, mean(domain_counts), alpha_);
  return out;
}

void Climatology::choose_alpha(const Communicator& comm) {
  const auto n = static_cast<std::size_t>(classes_);
  // An odd stride visits every hour of the day.
  const std::size_t stride = ((windows_.size() + windows_tried - 1) / windows_tried) | 1;
  std::array<FixedSum, alphas.size()> scores;
  for (std::size_t w = 0; w < windows_.size(); w += stride) {
    const std::vector<std::int8_t>& observed = windows_[w].classes;
    if (observed.empty()) continue;
    std::vector<std::int64_t> domain_counts;
    const std::vector<float> smoothed = smooth(counts_without(windows_[w].end, {}, domain_counts));
    if (std::all_of(domain_counts.begin(), domain_counts.end(), [](auto count) { return count == 0; }))
      continue;
    const std::vector<float> prior = mean(domain_counts);
    for (std::size_t a = 0; a < alphas.size(); ++a) {
      std::vector<float> p = smoothed;
      shrink(p, prior, alphas[a]);
      // Neighbouring cells say much the same: a quarter of them do, by global position.
      for (Index y = tile_.y0 + tile_.y0 % 2; y < tile_.y1; y += 2)
        for (Index x = tile_.x0 + tile_.x0 % 2; x < tile_.x1; x += 2) {
          const int k = observed[static_cast<std::size_t>((y - grown_.y0) * grown_.width() + x - grown_.x0)];
          if (k < 0) continue;
          const float* cell =
              p.data() + static_cast<std::size_t>((y - tile_.y0) * tile_.width() + x - tile_.x0) * n;
          double below = 0, score = 0; // P(class <= j), and the ranked probability score
          for (int j = 0; j + 1 < classes_; ++j) {
            below += cell[j];
            const double miss = below - (k <= j ? 1 : 0);
            score += miss * miss;
          }
          scores[a].add(score);
        }
    }
    for (FixedSum& score : scores) score.carry();
  }
  all_reduce(comm, scores);
  std::size_t best = 0; // the first of equals: without anything to go by, the least
  for (std::size_t a = 1; a < alphas.size(); ++a)
    if (scores[a].value() < scores[best].value()) best = a;
  alpha_ = alphas[best];
}

std::vector<float> Climatology::smooth(const std::vector<float>& counts) const {
  const auto n = static_cast<std::size_t>(classes_);
  static const std::array<float, taps> weights = gaussian_taps();
  const auto grown_row = static_cast<std::size_t>(grown_.width()) * n;
  const auto tile_row = static_cast<std::size_t>(tile_.width()) * n;
  std::vector<float> out(static_cast<std::size_t>(tile_.cells()) * n);
#pragma omp parallel
  {
    std::vector<float> column(grown_row); // a row smoothed in y
#pragma omp for schedule(static)
    for (Index y = tile_.y0; y < tile_.y1; ++y) {
      std::fill(column.begin(), column.end(), 0.0F);
      for (int tap = 0; tap < taps; ++tap) {
        const Index from = y + tap - smoothing_radius;
        if (from < grown_.y0 || from >= grown_.y1) continue;
        const float weight = weights[static_cast<std::size_t>(tap)];
        const float* source = counts.data() + static_cast<std::size_t>(from - grown_.y0) * grown_row;
        for (std::size_t i = 0; i < grown_row; ++i) column[i] += weight * source[i];
      }
      float* row = out.data() + static_cast<std::size_t>(y - tile_.y0) * tile_row;
      std::fill(row, row + tile_row, 0.0F);
      for (int tap = 0; tap < taps; ++tap) {
        const Index shift = tap - smoothing_radius; // source column = column + shift
        const Index first = std::max(tile_.x0, grown_.x0 - shift),
                    last = std::min(tile_.x1, grown_.x1 - shift);
        if (last <= first) continue;
        const float weight = weights[static_cast<std::size_t>(tap)];
        const float* source = column.data() + static_cast<std::size_t>(first + shift - grown_.x0) * n;
        float* target = row + static_cast<std::size_t>(first - tile_.x0) * n;
        const std::size_t length = static_cast<std::size_t>(last - first) * n;
        for (std::size_t i = 0; i < length; ++i) target[i] += weight * source[i];
      }
    }
  }
  return out;
}

} // namespace pluvia
