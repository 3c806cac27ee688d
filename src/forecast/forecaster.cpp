#include "pluvia/forecast/forecaster.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/forecast/product.hpp"
#include "pluvia/model/calibration.hpp"
#include "pluvia/model/climatology.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/model/hourly_climatology.hpp"

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

/// The trained configuration, after checking that the user's does not contradict it.
Settings trained_settings(const Checkpoint& checkpoint, const std::string& path, const Settings& wanted) {
  const Settings trained = parse_settings(checkpoint.configuration, path, {});
  ModelSettings wanted_model = wanted.model, trained_model = trained.model;
  wanted_model.head_init = trained_model.head_init; // only where training started
  const auto refuse = [&](bool differs, const std::string& section) {
    if (differs)
      fail(ExitCode::usage, section + " is not what " + path + " was trained with",
           "a checkpoint fixes its network, its inputs and its target",
           "Take " + section + " from `pluvia info " + path + "`, or name another forecast.checkpoint.");
  };
  refuse(wanted.target != trained.target, "target");
  refuse(wanted_model != trained_model, "model");
  refuse(wanted.data.predictors != trained.data.predictors, "data.predictors");
  refuse(wanted.data.target != trained.data.target, "data.target");
  refuse(wanted.data.precip_label != trained.data.precip_label, "data.precip_label");
  return trained;
}

/// [leads x classes x height x width] from [1, leads, Y, X, classes].
std::vector<float> classes_outermost(const Tensor& logits) {
  const Shape s = logits.shape();
  std::vector<float> out(static_cast<std::size_t>(s.size()));
  std::size_t i = 0;
  for (Index lead = 0; lead < s.t; ++lead)
    for (Index k = 0; k < s.c; ++k)
      for (Index y = 0; y < s.y; ++y)
        for (Index x = 0; x < s.x; ++x) out[i++] = logits.cell(0, lead, y, x)[k];
  return out;
}

} // namespace

std::vector<Time> requested_times(const Settings& settings, const ArchiveIndex& index) {
  const std::string& text = settings.forecast.init;
  if (text == "latest") return {index.frames.back().time / hour * hour};
  if (text.empty()) {
    if (settings.data.test.from.empty() || settings.data.test.to.empty())
      fail(ExitCode::usage, "forecast.init is empty and data.test is not set", "", "Set one of them.");
    return initial_times(make_sample_rule(settings), parse_time(settings.data.test.from),
                         parse_time(settings.data.test.to));
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
  const std::string path =
      settings.forecast.checkpoint.empty()
          ? (std::filesystem::path(settings.train.output) / "checkpoint_best.h5").string()
          : settings.forecast.checkpoint;
  const Settings trained = trained_settings(read_checkpoint_header(world, path), path, settings);
  const ArchiveIndex index = index_archive(world, settings.data.archive);
  Decomposition tiles(world, layout(settings, index.grid, world.size()));
  const Rect tile = tiles.tile(0);

  std::string digest;
  const Checkpoint checkpoint = read_checkpoint(world, path, tile, &digest);
  StUnet network = make_network(trained);
  load_parameters(checkpoint, "weights", network.parameters().all());
  const HourlyClimatology hourly = from_field(checkpoint.fields.at("climatology"));
  const Normalisation normalisation{checkpoint.arrays.at("normalisation/mean").values,
                                    checkpoint.arrays.at("normalisation/deviation").values};
  std::optional<Calibration> calibration;
  if (const auto found = checkpoint.texts.find("calibration"); found != checkpoint.texts.end())
    calibration = calibration_from_json(found->second);
  else
    log.warn(path +
             " holds no calibration: its training has not finished; probabilities are the network's own");

  SampleRule rule = make_sample_rule(settings);
  const int thresholds = rule.classes() - 1;
  Sampler sampler(index, rule, tile, static_cast<std::size_t>(settings.data.cache_mib * 1048576));
  ProductHeader header{.grid = index.grid,
                       .leads_hours = settings.target.leads_hours,
                       .thresholds_mm = settings.target.thresholds_mm,
                       .window_hours = settings.target.window_hours,
                       .configuration = resolved_yaml(settings),
                       .weights_digest = digest,
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

  const std::vector<Time> times = requested_times(settings, index);
  const Time first = index.frames.front().time, last = index.frames.back().time;
  std::vector<std::string> written;
  Progress progress(log, "forecast", static_cast<std::int64_t>(times.size()));
  for (Time init : times) {
    if (init < first || init > last + rule.frame_step)
      fail(ExitCode::data, "No forecast can start at " + format_time(init),
           "the archive runs from " + format_time(first) + " to " + format_time(last),
           "Change forecast.init.");
    std::vector<std::vector<float>> pi;
    for (Time lead : rule.leads) pi.push_back(hourly.at(init + lead));
    SampleInput input;
    together(world, [&] { input = sampler.input(init, normalisation, pi, network.input_margin()); });

    ProductTile product;
    product.tile = tile;
    if (index.grid.kind == Grid::Kind::projected) {
      product.latitudes = sampler.reader().latitudes();
      product.longitudes = sampler.reader().longitudes();
    }
    for (std::uint8_t q : input.quality) {
      std::uint8_t flag = 0;
      if (q & input_quality::frame_missing) flag |= input_frame_missing;
      if (q & input_quality::cell_missing) flag |= input_pixel_missing;
      if (init - static_cast<Time>(rule.history - 1) * rule.frame_step < first) flag |= context_truncated;
      product.quality.push_back(flag);
    }
    Tape tape(Tape::Mode::forget);
    const Var logits = predict(network, tape, tiles, std::move(input), pi, rule.classes());
    product.probability = exceedance_fields(logits->value);
    if (calibration) {
      const std::size_t size = static_cast<std::size_t>(thresholds * tile.cells());
      for (std::size_t lead = 0; lead < rule.leads.size(); ++lead)
        calibrate(*calibration, static_cast<int>(lead), exceedance(pi[lead], rule.classes()),
                  std::span(product.probability).subspan(lead * size, size));
    }
    if (settings.forecast.write_logits) product.logits = classes_outermost(logits->value);
    written.push_back((std::filesystem::path(settings.forecast.output) / product_name(init)).string());
    write_product(world, written.back(), header, init, product);
    progress.update(static_cast<std::int64_t>(written.size()), format_time(init));
  }
  return written;
}

} // namespace pluvia
