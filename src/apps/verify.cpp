// pluvia verify: scores of forecast files against the archive, beside what the references would have scored
// on the same cells and times.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <span>

#include <glob.h>

#include "commands.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/data/sampler.hpp"
#include "pluvia/forecast/product.hpp"
#include "pluvia/verify/references.hpp"
#include "pluvia/verify/report.hpp"

namespace pluvia::commands {

namespace {

namespace fs = std::filesystem;

/// Forecast files of a folder by name, the same on every rank. Collective.
std::vector<std::string> find_products(const Communicator& world, const std::string& folder) {
  std::string names;
  together(world, [&] {
    if (world.rank() != 0) return;
    std::vector<std::string> found;
    if (fs::is_directory(folder))
      for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("pluvia_pop_") && name.ends_with(".nc")) found.push_back(entry.path().string());
      }
    if (found.empty())
      fail(ExitCode::data, "There are no forecasts to verify", "no pluvia_pop_*.nc in " + folder,
           "Run pluvia forecast first, or set verify.forecasts.");
    std::sort(found.begin(), found.end());
    for (const std::string& path : found) names += path + '\n';
  });
  world.broadcast(names, 0);
  std::vector<std::string> out;
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end = names.find('\n', at);
    out.push_back(names.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

bool same_axis(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.empty()) return a.size() == b.size();
  // Coordinates may have passed through f32.
  const double tolerance = 1e-3 * std::abs(a.back() - a.front()) / static_cast<double>(a.size()) + 1e-9;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::abs(a[i] - b[i]) > tolerance) return false;
  return true;
}

void require_agreement(const ProductInfo& info, const ArchiveIndex& index, const TargetSettings& target) {
  const auto same = [](const std::vector<double>& a, const std::vector<double>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
             return std::abs(x - y) <= 1e-6 * std::max(1.0, std::abs(y)); // thresholds are stored as f32
           });
  };
  const auto disagree = [&](const std::string& what) {
    fail(ExitCode::data, info.path + " cannot be verified with this configuration",
         "its " + what + " differ from target." + what,
         "Use the configuration the forecasts were made with.");
  };
  if (!same(info.leads_hours, target.leads_hours)) disagree("leads_hours");
  if (!same(info.thresholds_mm, target.thresholds_mm)) disagree("thresholds_mm");
  if (!same({info.window_hours}, {target.window_hours})) disagree("window_hours");
  if (info.grid.kind != index.grid.kind || !same_axis(info.grid.y, index.grid.y) ||
      !same_axis(info.grid.x, index.grid.x))
    fail(ExitCode::data, info.path + " cannot be verified against this archive", "it lies on another grid",
         "Set data.archive to the archive the forecasts were made from.");
}

/// The files that names and globs stand for, sorted, each once.
std::vector<std::string> expand(const std::vector<std::string>& patterns) {
  std::vector<std::string> out;
  for (const std::string& pattern : patterns) {
    glob_t found{};
    const bool any = ::glob(pattern.c_str(), 0, nullptr, &found) == 0;
    for (std::size_t i = 0; any && i < found.gl_pathc; ++i) out.emplace_back(found.gl_pathv[i]);
    ::globfree(&found);
    if (!any)
      fail(ExitCode::data, "There are no scores to merge", "no file " + pattern, "Check verify.merge.");
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

void report(const Settings& settings, const Log& log, const ScoreTable& table, std::int64_t forecasts,
            double climatology_alpha) {
  const std::vector<Score> scores = all_scores(table);
  write_report(settings.verify.output, table, scores,
               {resolved_yaml(settings), settings.data.test.from, settings.data.test.to, forecasts,
                climatology_alpha});
  std::fputs(summary(table, scores).c_str(), stdout);
  log.info("scores of " + std::to_string(forecasts) + " forecasts in " + settings.verify.output +
           "/scores.json and scores.csv");
}

/// A part of a rectangle of values.
template <class T> std::vector<T> crop(std::span<const T> values, const Rect& held, const Rect& part) {
  std::vector<T> out;
  out.reserve(static_cast<std::size_t>(part.cells()));
  for (Index y = part.y0; y < part.y1; ++y) {
    const auto row = values.begin() + ((y - held.y0) * held.width() + part.x0 - held.x0);
    out.insert(out.end(), row, row + part.width());
  }
  return out;
}

/// Whether a lead of the forecast that starts at `init` is scored.
using Scored = std::function<bool(Time init, std::size_t lead)>;

/// Of the forecasts in a folder those with a lead that is scored. Local.
std::vector<ProductInfo> scored_products(const std::vector<std::string>& paths, const std::string& folder,
                                         const ArchiveIndex& index, const TargetSettings& target,
                                         const Scored& scored) {
  std::vector<ProductInfo> out;
  for (const std::string& path : paths) {
    ProductInfo info = read_product_info(path);
    require_agreement(info, index, target);
    bool used = false;
    for (std::size_t lead = 0; lead < info.leads_hours.size(); ++lead) used = used || scored(info.init, lead);
    if (used) out.push_back(std::move(info));
  }
  if (out.empty())
    fail(ExitCode::data, "There is nothing to verify",
         "none of the " + std::to_string(paths.size()) + " forecasts in " + folder +
             " has a window inside data.test",
         "Forecast the test range, or change data.test.");
  return out;
}

/// Scores forecasts, one after the other in order of time, and the references beside them on a tile.
struct Scoring {
  ArchiveReader& reader; ///< of the tile and neighbours enough
  const SampleRule& rule;
  const RecentWeatherRule& recent;
  const Rect& tile;
  const std::vector<float>& area; ///< of the tile's cells
  const Climatology& climatology;
  const References& references;
  const Scored& scored;
  ScoreTable& table;
  std::map<Time, std::vector<std::int8_t>> observed = {}; ///< by the window's end: forecasts share windows
  std::map<Time, std::vector<float>> climate = {};        ///< by hour of the day

  /// Local.
  void add(const ProductInfo& info);
};

void Scoring::add(const ProductInfo& info) {
  const Rect& held = reader.rect();
  const std::size_t thresholds = rule.thresholds_mm.size(), cells = static_cast<std::size_t>(held.cells());
  observed.erase(observed.begin(), observed.lower_bound(info.init));
  const std::vector<float> all = read_product(info, held);
  const RecentWeather weather = recent_weather(reader, recent, tile, info.init);
  for (std::size_t lead = 0; lead < info.leads_hours.size(); ++lead) {
    if (!scored(info.init, lead)) continue;
    const Time end = info.init + rule.leads[lead], hour = (end + 1800) / 3600 % 24;
    if (!observed.contains(end))
      for (const float amount : accumulate(reader, rule.rain, end))
        observed[end].push_back(static_cast<std::int8_t>(amount_class(amount, rule.thresholds_mm)));
    if (!climate.contains(hour))
      climate[hour] = exceedance(climatology.probabilities(end), climatology.classes());
    std::vector<std::vector<float>> forecasts =
        references.forecast(static_cast<int>(lead), weather, climate[hour]);
    const std::span<const float> network =
        std::span(all).subspan(lead * thresholds * cells, thresholds * cells);
    std::vector<float> own;
    for (std::size_t k = 0; k < thresholds; ++k) {
      const std::vector<float> field = crop(network.subspan(k * cells, cells), held, tile);
      own.insert(own.end(), field.begin(), field.end());
    }
    forecasts.insert(forecasts.begin(), std::move(own));
    table.add(static_cast<int>(lead), end, forecasts, crop<std::int8_t>(observed[end], held, tile), area);
    table.add_neighbourhoods(static_cast<int>(lead), end, network, observed[end], held, tile, area);
  }
}

} // namespace

ExitCode verify(const Communicator& world, const Settings& settings, const Log& log) {
  if (!settings.verify.merge.empty()) {
    together(world, [&] {
      if (world.rank() != 0) return;
      const ScoreTable table = read_reports(expand(settings.verify.merge));
      report(settings, log, table, table.forecasts(), 0);
    });
    return ExitCode::done;
  }
  const std::string folder =
      settings.verify.forecasts.empty() ? settings.forecast.output : settings.verify.forecasts;
  const std::vector<std::string> paths = find_products(world, folder);
  const ArchiveIndex index = index_archive(world, settings.data.archive);
  const std::vector<TimeSpan> train = training_spans(settings.data), test{parse_span(settings.data.test)};
  const SampleRule rule = make_sample_rule(settings);
  const Scored scored = [&](Time init, std::size_t lead) {
    return hold_window(test, init + rule.leads[lead], rule.rain.window);
  };

  std::vector<ProductInfo> products;
  together(world, [&] { products = scored_products(paths, folder, index, settings.target, scored); });

  const GridShape shape = choose_grid_shape(index.grid.ny(), index.grid.nx(), 1, world.size());
  const Tiling tiling(index.grid.ny(), index.grid.nx(), 1, shape.rows, shape.cols);
  const Rect tile = tiling.tile(world.rank(), 0);
  // Neighbours enough for the climatology, the references and the fractions skill score.
  static_assert(Climatology::smoothing_radius >= std::max(RecentWeather::reach, ScoreTable::reach));
  const Rect held = Climatology::grown(tile, tiling.domain(0));
  ArchiveReader reader(index, held, static_cast<std::size_t>(settings.data.cache_mib * 1024 * 1024));
  std::vector<float> area;
  const std::vector<float> rows = row_areas(index.grid);
  for (Index y = tile.y0; y < tile.y1; ++y)
    area.insert(area.end(), static_cast<std::size_t>(tile.width()), rows[static_cast<std::size_t>(y)]);

  const RecentWeatherRule recent = recent_weather_rule(settings);
  log.info("counting the climatology of the training range");
  const Climatology climatology =
      Climatology::count(world, reader, tile, rule.rain, settings.target.thresholds_mm, train);
  const References references =
      References::fit(world, log, reader, recent, climatology, settings.target.leads_hours, area, train);

  std::vector<std::string> systems{"pluvia"};
  systems.insert(systems.end(), References::names().begin(), References::names().end());
  ScoreTable table(systems, settings.target.leads_hours, settings.target.thresholds_mm);
  together(world, [&] {
    Scoring scoring{reader, rule, recent, tile, area, climatology, references, scored, table};
    Progress progress(log, "verifying", static_cast<std::int64_t>(products.size()));
    for (std::size_t i = 0; i < products.size(); ++i) {
      scoring.add(products[i]);
      progress.update(static_cast<std::int64_t>(i + 1));
    }
  });
  table.reduce(world);
  std::int64_t valid = 0;
  for (std::size_t lead = 0; lead < settings.target.leads_hours.size(); ++lead)
    valid += table.n_valid(static_cast<int>(lead));
  if (valid == 0)
    fail(ExitCode::data, "There is nothing to verify", "no forecast window of data.test has observations",
         "Check data.target, or change data.test.");

  together(world, [&] {
    if (world.rank() != 0) return;
    report(settings, log, table, static_cast<std::int64_t>(products.size()), climatology.alpha());
  });
  return ExitCode::done;
}

} // namespace pluvia::commands
