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

std::vector<std::string> checkpoints(const Settings& settings) {
  std::vector<std::string> paths = settings.forecast.checkpoint;
  if (paths.empty())
    paths.push_back((std::filesystem::path(settings.train.output) / "checkpoint_best.h5").string());
  if (paths.size() > 1 && settings.forecast.write_logits)
    fail(ExitCode::usage, "forecast.write_logits needs a single model",
         fmt::format("each of the {} in forecast.checkpoint has logits of its own", paths.size()),
         "Set it to false, or name one checkpoint.");
  return paths;
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

ProcessGrid share_channels_out(const Communicator& world, const Settings& settings) {
  const int tensor = static_cast<int>(settings.parallel.tensor);
  require_shares(settings.model, tensor);
  return make_process_grid(world, 1, 1, tensor);
}

/// Tiles cut for the deepest network fit the others too.
Partition layout_for_all(const std::vector<Settings>& trained, Settings settings, const Grid& grid,
                         int ranks) {
  for (const Settings& member : trained)
    if (levels_of(member.model) > levels_of(settings.model)) settings.model = member.model;
  return layout(settings, grid, ranks);
}

/// Whose attention is written. Collective.
std::vector<AttentionProbe::Cell> attention_cells(const Communicator& world, const Settings& settings,
                                                  const ArchiveIndex& index, const Rect& tile) {
  const auto require_one = [&](std::int64_t parts, const std::string& key, const std::string& what) {
    if (parts > 1 && !settings.forecast.write_attention.empty())
      fail(ExitCode::usage, "forecast.write_attention needs all " + what + " of a cell on one rank",
           key + " is " + std::to_string(parts), "Set " + key + "=1.");
  };
  require_one(settings.parallel.time, "parallel.time", "frames and leads");
  require_one(settings.parallel.tensor, "parallel.tensor", "heads");
  return cells_holding(world, index, tile, settings.forecast.write_attention);
}

/// Forecasts of the models of forecast.checkpoint.
class Forecasting {
public:
  Forecasting(const Communicator& world, const Settings& settings, const Log& log);
  /// Returns the paths written.
  std::vector<std::string> run();

private:
  std::vector<Member> load_members() const;
  ProductHeader header() const;
  /// Writes a forecast, and what its models attended to. Collective.
  void write(const std::string& path, const ProductHeader& header, Time init);
  /// Adds a member's probabilities to those of a product. Collective.
  void add(Member& member, Time init, const RecentWeather& weather, AttentionProbe* probe,
           ProductTile& product);

  const Communicator& world_;
  const Settings& settings_;
  const Log& log_;
  std::vector<std::string> paths_; ///< of the members
  std::vector<Settings> trained_;
  Device device_;
  ArchiveIndex index_;
  ProcessGrid grid_;
  Decomposition tiles_;
  std::vector<AttentionProbe::Cell> cells_; ///< whose attention is written
  SampleRule rule_;
  std::vector<Time> times_;
  std::vector<Member> members_;
  bool regression_; ///< some member's base
  Sampler sampler_;
  std::optional<ArchiveReader> surroundings_; ///< for regressions
};

Forecasting::Forecasting(const Communicator& world, const Settings& settings, const Log& log)
    : world_(world), settings_(settings), log_(log), paths_(checkpoints(settings)),
      trained_(trained_settings(world, paths_, settings)),
      device_(take_device(world, settings.parallel.device)),
      index_(index_archive(world, settings.data.archive)), grid_(share_channels_out(world, settings)),
      tiles_(grid_.tiles, layout_for_all(trained_, settings, index_.grid, grid_.tiles.size()),
             &grid_.channels),
      cells_(attention_cells(world, settings, index_, tiles_.tile(0))), rule_(make_sample_rule(settings)),
      times_(requested_times(settings, index_)), members_(load_members()),
      regression_(
          std::ranges::any_of(trained_, [](const Settings& s) { return s.model.base == "regression"; })),
      sampler_(index_, rule_, tiles_.tile(0), reader_cache_bytes(settings, regression_)) {
  if (regression_)
    surroundings_.emplace(index_, RecentWeather::grown(tiles_.tile(0), tiles_.domain(0)),
                          reader_cache_bytes(settings, true));
  if (device_ == Device::gpu) log.info(describe_devices(world, device_) + "; " + tiles_.link_accelerators());
}

std::vector<Member> Forecasting::load_members() const {
  std::vector<Time> ends; // of all windows
  for (const Time init : times_)
    for (const Time lead : rule_.leads) ends.push_back(init + lead);
  std::vector<Member> out;
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    out.push_back(load_member(world_, paths_[i], trained_[i], tiles_.tile(0), device_, log_));
    keep_hours(out.back().climatology, ends);
  }
  malloc_trim(0); // checkpoints held more than is needed from here on
  return out;
}

ProductHeader Forecasting::header() const {
  std::vector<std::string> digests;
  for (const Member& member : members_) digests.push_back(member.digest);
  return {.grid = index_.grid,
          .leads_hours = settings_.target.leads_hours,
          .thresholds_mm = settings_.target.thresholds_mm,
          .window_hours = settings_.target.window_hours,
          .configuration = resolved_yaml(settings_),
          .weights_digest = fmt::format("{}", fmt::join(digests, ", ")),
          .predictors = fmt::format("{}", fmt::join(rule_.predictors, ", ")),
          .frame_minutes = settings_.model.frame_minutes,
          .history = static_cast<int>(rule_.history)};
}

void Forecasting::add(Member& member, Time init, const RecentWeather& weather, AttentionProbe* probe,
                      ProductTile& product) {
  std::vector<std::vector<float>> pi;
  for (const Time lead : rule_.leads) pi.push_back(member.climatology.at(init + lead));
  const std::vector<std::vector<float>> base =
      member.regressions.empty() ? std::move(pi) : regression_base(member.regressions, weather, pi);
  pi.clear();
  SampleInput input;
  together(world_, [&] {
    input = sampler_.input(init, member.normalisation, base, member.network.input_margin(),
                           tiles_.frames(static_cast<Index>(rule_.history)));
  });
  std::vector<std::uint8_t> missing = std::move(input.quality);
  tiles_.time().all_reduce_or(missing); // each part looked at some frames
  Tape tape(Tape::Mode::forget);
  const Var logits = predict(member.network, tape, tiles_, std::move(input), base, rule_.classes(), probe);
  std::vector<float> probability = exceedance_fields(logits->value);
  if (member.calibration && settings_.forecast.calibrate) {
    const Span leads = product.leads;
    const std::size_t size = probability.size() / static_cast<std::size_t>(leads.size());
    for (Index lead = leads.from; lead < leads.to; ++lead)
      calibrate(*member.calibration, static_cast<int>(lead),
                exceedance(base[static_cast<std::size_t>(lead)], rule_.classes()),
                std::span(probability).subspan(static_cast<std::size_t>(lead - leads.from) * size, size));
  }
  if (settings_.forecast.write_logits) product.logits = classes_outermost(logits->value);
  if (product.probability.empty()) {
    const Time first = init - static_cast<Time>(rule_.history - 1) * rule_.frame_step;
    product.probability = std::move(probability);
    product.quality = quality_flags(missing, first < index_.frames.front().time);
  } else { // the same frames, hence the same flags
    for (std::size_t i = 0; i < probability.size(); ++i) product.probability[i] += probability[i];
  }
}

void Forecasting::write(const std::string& path, const ProductHeader& header, Time init) {
  const Time first = index_.frames.front().time, last = index_.frames.back().time;
  if (init < first || init > last + rule_.frame_step)
    fail(ExitCode::data, "No forecast can start at " + format_time(init),
         "the archive runs from " + format_time(first) + " to " + format_time(last), "Change forecast.init.");
  RecentWeather weather;
  if (regression_)
    together(world_, [&] {
      weather = recent_weather(*surroundings_, recent_weather_rule(settings_), tiles_.tile(0), init);
    });
  ProductTile product;
  product.tile = tiles_.tile(0);
  product.leads = tiles_.leads(static_cast<Index>(rule_.leads.size()));
  if (index_.grid.kind == Grid::Kind::projected) {
    product.latitudes = sampler_.reader().latitudes();
    product.longitudes = sampler_.reader().longitudes();
  }
  std::vector<AttentionProbe> probes(cells_.empty() ? 0 : members_.size(), {cells_, {}, {}});
  for (std::size_t i = 0; i < members_.size(); ++i)
    add(members_[i], init, weather, probes.empty() ? nullptr : &probes[i], product);
  for (float& p : product.probability) p /= static_cast<float>(members_.size());
  together(world_, [&] { // those who share out channels hold the same
    if (grid_.counts()) write_product(grid_.tiles, path, header, init, product);
  });
  const std::vector<float> probability = at_cells(world_, product, cells_);
  for (std::size_t i = 0; i < probes.size(); ++i) {
    gather(world_, probes[i]);
    ProductHeader own = header;
    own.weights_digest = members_[i].digest;
    write_attention(
        world_, std::filesystem::path(path).replace_filename(attention_name(init, i, members_.size())), own,
        init,
        {settings_.forecast.write_attention, probes[i], members_[i].network.first_level(), probability});
  }
}

std::vector<std::string> Forecasting::run() {
  const std::filesystem::path folder = settings_.forecast.output;
  together(world_, [&] {
    if (world_.rank() != 0) return;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error)
      fail(ExitCode::failed, "Cannot create " + settings_.forecast.output, error.message(),
           "Check forecast.output.");
  });
  const ProductHeader header = this->header();
  std::vector<std::string> written;
  Progress progress(log_, "forecast", static_cast<std::int64_t>(times_.size()));
  for (const Time init : times_) {
    written.push_back((folder / product_name(init)).string());
    write(written.back(), header, init);
    progress.update(static_cast<std::int64_t>(written.size()), format_time(init));
  }
  return written;
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
  return Forecasting(world, settings, log).run();
}

} // namespace pluvia
