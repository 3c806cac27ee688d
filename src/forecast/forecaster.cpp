#include "pluvia/forecast/forecaster.hpp"

#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "pluvia/comm/devices.hpp"
#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/forecast/attention_file.hpp"
#include "pluvia/forecast/point_cells.hpp"
#include "pluvia/forecast/product.hpp"
#include "pluvia/model/calibration.hpp"
#include "pluvia/model/climatology.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/model/hourly_climatology.hpp"
#include "pluvia/model/pooled_regression.hpp"

namespace pluvia {

namespace {

constexpr Time hour = 3600;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts{""};
  for (char c : text)
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

/// Refuses to average forecasts that stand for different things or are made from different frames.
void require_agreement(const Settings& a, const std::string& path_a, const Settings& b,
                       const std::string& path_b) {
  const auto refuse = [&](bool differs, const std::string& key) {
    if (differs)
      fail(ExitCode::usage, path_a + " and " + path_b + " cannot be averaged",
           "they were trained with different " + key, "Take one of them out of forecast.checkpoint.");
  };
  refuse(a.target.leads_hours != b.target.leads_hours, "target.leads_hours");
  refuse(a.target.thresholds_mm != b.target.thresholds_mm, "target.thresholds_mm");
  refuse(a.target.window_hours != b.target.window_hours, "target.window_hours");
  refuse(a.data.predictors != b.data.predictors, "data.predictors");
  refuse(a.data.target != b.data.target, "data.target");
  refuse(a.data.precip_label != b.data.precip_label, "data.precip_label");
  refuse(a.model.history != b.model.history, "model.history");
  refuse(a.model.frame_minutes != b.model.frame_minutes, "model.frame_minutes");
}

/// The configurations of all members, after checking them against each other and the first against the
/// user's. Collective.
std::vector<Settings> trained_settings(const Communicator& world, const std::vector<std::string>& paths,
                                       const Settings& wanted) {
  std::vector<Settings> out;
  for (const std::string& path : paths) {
    const std::string configuration = read_checkpoint_header(world, path).configuration;
    out.push_back(parse_settings(configuration, path, {}));
    require_agreement(out.front(), paths.front(), out.back(), path);
  }
  require_same_model(out.front(), paths.front(), wanted, "name another forecast.checkpoint");
  return out;
}

/// One trained model.
struct Member {
  StUnet network;
  HourlyClimatology climatology;
  Normalisation normalisation;
  std::vector<LogisticRegression> regressions; ///< by lead; empty: the base is the climatology
  std::optional<Calibration> calibration;
  std::string digest;
};

/// Collective.
Member load_member(const Communicator& world, const std::string& path, const Settings& trained,
                   const Rect& tile, Device device, const Log& log) {
  std::string digest;
  const Checkpoint checkpoint = read_checkpoint(world, path, tile, &digest);
  Member out{make_network(trained, ports_of(trained), device),
             from_field(checkpoint.fields.at("climatology")),
             {checkpoint.arrays.at("normalisation/mean").values,
              checkpoint.arrays.at("normalisation/deviation").values},
             {},
             {},
             digest};
  load_parameters(checkpoint, "weights", out.network.parameters().all());
  if (trained.model.base == "regression") {
    const auto found = checkpoint.texts.find("regression");
    out.regressions =
        regressions_from_json(found == checkpoint.texts.end() ? "" : found->second,
                              trained.target.leads_hours.size(), trained.target.thresholds_mm.size());
  }
  if (const auto found = checkpoint.texts.find("calibration"); found != checkpoint.texts.end())
    out.calibration = calibration_from_json(found->second);
  else
    log.warn(path +
             " holds no calibration: its training has not finished; probabilities are the network's own");
  return out;
}

/// Flags of the product from bits of input_quality.
std::vector<std::uint8_t> quality_flags(const std::vector<std::uint8_t>& missing, bool context_cut) {
  std::vector<std::uint8_t> out;
  for (const std::uint8_t bits : missing) {
    std::uint8_t flag = context_cut ? context_truncated : 0;
    if (bits & input_quality::frame_missing) flag |= input_frame_missing;
    if (bits & input_quality::cell_missing) flag |= input_pixel_missing;
    out.push_back(flag);
  }
  return out;
}

/// [leads x classes x height x width] from [1, leads, Y, X, classes].
std::vector<float> classes_outermost(const Tensor& logits) {
  if (logits.device() == Device::gpu) return classes_outermost(logits.to(Device::host));
  const Shape s = logits.shape();
  std::vector<float> out(static_cast<std::size_t>(s.size()));
  std::size_t i = 0;
  for (Index lead = 0; lead < s.t; ++lead)
    for (Index k = 0; k < s.c; ++k)
      for (Index y = 0; y < s.y; ++y)
        for (Index x = 0; x < s.x; ++x) out[i++] = logits.cell(0, lead, y, x)[k];
  return out;
}

/// The product's probabilities at chosen cells: [cells x leads x thresholds]. Collective.
std::vector<float> at_cells(const Communicator& world, const ProductTile& product,
                            const std::vector<AttentionProbe::Cell>& cells) {
  const auto size = static_cast<std::size_t>(product.tile.cells());
  const std::size_t fields = product.probability.size() / size;
  std::vector<float> out(cells.size() * fields, 0.0F);
  if (cells.empty()) return out;
  const Rect& tile = product.tile;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const auto [y, x] = cells[i];
    if (intersect(tile, {y, y + 1, x, x + 1}).empty()) continue;
    const auto at = static_cast<std::size_t>((y - tile.y0) * tile.width() + x - tile.x0);
    for (std::size_t field = 0; field < fields; ++field)
      out[i * fields + field] = round_probability(product.probability[field * size + at]);
  }
  world.all_reduce(std::span<float>(out), Reduce::sum);
  return out;
}

} // namespace

std::vector<Time> requested_times(const Settings& settings, const ArchiveIndex& index) {
  const std::string& text = settings.forecast.init;
  if (text == "latest") return {index.frames.back().time / hour * hour};
  if (text.empty()) {
    if (settings.data.test.from.empty() || settings.data.test.to.empty())
      fail(ExitCode::usage, "forecast.init is empty and data.test is not set", "", "Set one of them.");
    return initial_times(make_sample_rule(settings), std::vector{parse_span(settings.data.test)});
  }
  std::vector<Time> times;
  for (const std::string& item : split(text, ',')) {
    const auto parts = split(item, '/');
    if (parts.size() == 1) {
      times.push_back(parse_time(item));
    } else if (parts.size() == 3) {
      const Time last = parse_time(parts[1]), step = parse_duration(parts[2]);
      for (Time t = parse_time(parts[0]); t <= last; t += step) times.push_back(t);
    } else {
      fail(ExitCode::usage, "forecast.init is not understood: " + item, "",
           "Write TIME, T1,T2 or T1/T2/PT6H.");
    }
  }
  std::ranges::sort(times);
  times.erase(std::unique(times.begin(), times.end()), times.end());
  return times;
}

std::vector<std::string> run_forecasts(const Communicator& world, const Settings& settings, const Log& log) {
  std::vector<std::string> paths = settings.forecast.checkpoint;
  if (paths.empty())
    paths.push_back((std::filesystem::path(settings.train.output) / "checkpoint_best.h5").string());
  if (paths.size() > 1 && settings.forecast.write_logits)
    fail(ExitCode::usage, "forecast.write_logits needs a single model",
         fmt::format("each of the {} in forecast.checkpoint has logits of its own", paths.size()),
         "Set it to false, or name one checkpoint.");
  const std::vector<Settings> trained = trained_settings(world, paths, settings);
  const Device device = take_device(world, settings.parallel.device);
  const ArchiveIndex index = index_archive(world, settings.data.archive);
  // Tiles cut for the deepest network fit the others too.
  Settings deepest = settings;
  bool regression = false;
  for (const Settings& member : trained) {
    if (levels_of(member.model) > levels_of(deepest.model)) deepest.model = member.model;
    regression = regression || member.model.base == "regression";
  }
  const int tensor = static_cast<int>(settings.parallel.tensor);
  require_shares(settings.model, tensor);
  const ProcessGrid grid = make_process_grid(world, 1, 1, tensor);
  Decomposition tiles(grid.tiles, layout(deepest, index.grid, grid.tiles.size()), &grid.channels);
  if (device == Device::gpu) log.info(describe_devices(world, device) + "; " + tiles.link_accelerators());
  const Rect tile = tiles.tile(0);
  const std::vector<LatLon>& points = settings.forecast.write_attention;
  if (!points.empty() && tiles.partition().time.parts() > 1)
    fail(ExitCode::usage, "forecast.write_attention needs all frames and leads of a cell on one rank",
         "parallel.time is " + std::to_string(settings.parallel.time), "Set parallel.time=1.");
  if (!points.empty() && tensor > 1)
    fail(ExitCode::usage, "forecast.write_attention needs all heads of a cell on one rank",
         "parallel.tensor is " + std::to_string(tensor), "Set parallel.tensor=1.");
  const std::vector<AttentionProbe::Cell> cells = cells_holding(world, index, tile, points);

  const SampleRule rule = make_sample_rule(settings);
  const std::vector<Time> times = requested_times(settings, index);
  std::vector<Time> ends; // of all windows
  for (const Time init : times)
    for (const Time lead : rule.leads) ends.push_back(init + lead);
  std::vector<Member> members;
  std::vector<std::string> digests;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    members.push_back(load_member(world, paths[i], trained[i], tile, device, log));
    keep_hours(members.back().climatology, ends);
    digests.push_back(members.back().digest);
  }
  malloc_trim(0); // checkpoints held more than is needed from here on

  const RecentWeatherRule recent = recent_weather_rule(settings);
  const Span frames = tiles.frames(static_cast<Index>(rule.history)),
             leads = tiles.leads(static_cast<Index>(rule.leads.size()));
  const std::size_t cache = reader_cache_bytes(settings, regression);
  Sampler sampler(index, rule, tile, cache);
  std::optional<ArchiveReader> surroundings;
  if (regression) surroundings.emplace(index, RecentWeather::grown(tile, tiles.domain(0)), cache);
  ProductHeader header{.grid = index.grid,
                       .leads_hours = settings.target.leads_hours,
                       .thresholds_mm = settings.target.thresholds_mm,
                       .window_hours = settings.target.window_hours,
                       .configuration = resolved_yaml(settings),
                       .weights_digest = fmt::format("{}", fmt::join(digests, ", ")),
                       .predictors = fmt::format("{}", fmt::join(rule.predictors, ", ")),
                       .frame_minutes = settings.model.frame_minutes,
                       .history = static_cast<int>(rule.history)};
  together(world, [&] {
    if (world.rank() != 0) return;
    std::error_code error;
    std::filesystem::create_directories(settings.forecast.output, error);
    if (error)
      fail(ExitCode::failed, "Cannot create " + settings.forecast.output, error.message(),
           "Check forecast.output.");
  });

  const Time first = index.frames.front().time, last = index.frames.back().time;
  std::vector<std::string> written;
  Progress progress(log, "forecast", static_cast<std::int64_t>(times.size()));
  for (Time init : times) {
    if (init < first || init > last + rule.frame_step)
      fail(ExitCode::data, "No forecast can start at " + format_time(init),
           "the archive runs from " + format_time(first) + " to " + format_time(last),
           "Change forecast.init.");
    const bool context_cut = init - static_cast<Time>(rule.history - 1) * rule.frame_step < first;
    RecentWeather weather;
    if (regression) together(world, [&] { weather = recent_weather(*surroundings, recent, tile, init); });
    ProductTile product;
    product.tile = tile;
    product.leads = leads;
    if (index.grid.kind == Grid::Kind::projected) {
      product.latitudes = sampler.reader().latitudes();
      product.longitudes = sampler.reader().longitudes();
    }
    std::vector<AttentionProbe> probes;
    for (Member& member : members) {
      AttentionProbe* const probe =
          cells.empty() ? nullptr : &probes.emplace_back(AttentionProbe{cells, {}, {}});
      std::vector<std::vector<float>> pi;
      for (Time lead : rule.leads) pi.push_back(member.climatology.at(init + lead));
      const std::vector<std::vector<float>> base =
          member.regressions.empty() ? std::move(pi) : regression_base(member.regressions, weather, pi);
      pi.clear();
      SampleInput input;
      together(world, [&] {
        input = sampler.input(init, member.normalisation, base, member.network.input_margin(), frames);
      });
      std::vector<std::uint8_t> missing = std::move(input.quality);
      tiles.time().all_reduce_or(missing); // each part looked at some frames
      Tape tape(Tape::Mode::forget);
      const Var logits = predict(member.network, tape, tiles, std::move(input), base, rule.classes(), probe);
      std::vector<float> probability = exceedance_fields(logits->value);
      if (member.calibration && settings.forecast.calibrate) {
        const std::size_t size = probability.size() / static_cast<std::size_t>(leads.size());
        for (Index lead = leads.from; lead < leads.to; ++lead)
          calibrate(*member.calibration, static_cast<int>(lead),
                    exceedance(base[static_cast<std::size_t>(lead)], rule.classes()),
                    std::span(probability).subspan(static_cast<std::size_t>(lead - leads.from) * size, size));
      }
      if (settings.forecast.write_logits) product.logits = classes_outermost(logits->value);
      if (product.probability.empty()) {
        product.probability = std::move(probability);
        product.quality = quality_flags(missing, context_cut);
      } else { // the same frames, hence the same flags
        for (std::size_t i = 0; i < probability.size(); ++i) product.probability[i] += probability[i];
      }
    }
    for (float& p : product.probability) p /= static_cast<float>(members.size());
    const std::filesystem::path folder = settings.forecast.output;
    written.push_back((folder / product_name(init)).string());
    together(world, [&] { // those who share out channels hold the same
      if (grid.counts()) write_product(grid.tiles, written.back(), header, init, product);
    });
    const std::vector<float> probability = at_cells(world, product, cells);
    for (std::size_t i = 0; i < probes.size(); ++i) {
      gather(world, probes[i]);
      ProductHeader own = header;
      own.weights_digest = digests[i];
      write_attention(world, (folder / attention_name(init, i, members.size())).string(), own, init,
                      {points, probes[i], members[i].network.first_level(), probability});
    }
    progress.update(static_cast<std::int64_t>(written.size()), format_time(init));
  }
  return written;
}

} // namespace pluvia
