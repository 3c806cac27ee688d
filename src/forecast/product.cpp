#include "pluvia/forecast/product.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <sstream>

#include "pluvia/core/error.hpp"
#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"

namespace pluvia {

namespace {

constexpr const char* diagnostic = "lwe_thickness_of_precipitation_amount";
constexpr const char* variable_name = "probability_of_precipitation";

Time seconds(double hours) {
  return std::llround(hours * 3600);
}

/// ISO 8601: "PT6H", "PT90M".
std::string iso_duration(Time length) {
  return length % 3600 == 0 ? "PT" + std::to_string(length / 3600) + "H"
                            : "PT" + std::to_string(length / 60) + "M";
}

void check_tile(const ProductHeader& header, const ProductTile& tile) {
  const auto cells = static_cast<std::size_t>(tile.tile.cells());
  const auto leads = static_cast<std::size_t>(tile.leads.size());
  const std::size_t thresholds = header.thresholds_mm.size();
  const bool projected = header.grid.kind == Grid::Kind::projected;
  if (tile.probability.size() != leads * thresholds * cells || tile.quality.size() != cells ||
      (!tile.logits.empty() && tile.logits.size() % (leads * cells) != 0) ||
      (projected && (tile.latitudes.size() != cells || tile.longitudes.size() != cells)))
    fail(ExitCode::failed, "A forecast tile does not have the size of its rectangle");
  for (float p : tile.probability)
    if (p < 0 || p > 1) fail(ExitCode::failed, "A probability of " + std::to_string(p) + " was forecast");
}

/// What a field refers to beside its dimensions.
constexpr const char* auxiliary = "forecast_period forecast_reference_time";

void add_fields(NcWriter& file, const ProductHeader& header, std::size_t classes) {
  const std::string y = header.grid.y_name, x = header.grid.x_name, p = variable_name;
  file.add_field(p, NcType::f32, {"time", "threshold", y, x});
  file.set_text(p, "long_name", std::string("probability_of_") + diagnostic + "_above_threshold");
  file.set_text(p, "units", "1");
  file.set_numbers(p, "valid_range", NcType::f32, {0, 1});
  file.set_text(p, "cell_methods", std::string("time: sum (comment: of ") + diagnostic + ")");
  set_grid_attributes(file, header.grid, p, auxiliary);
  file.set_text(p, "ancillary_variables", "quality_flag");
  file.set_numbers(p, "least_significant_digit", NcType::i32, {3});
  file.add_field("quality_flag", NcType::i8, {"time", y, x});
  file.set_text("quality_flag", "standard_name", "quality_flag");
  file.set_text("quality_flag", "long_name", "forecast quality flag (0 = nominal)");
  file.set_numbers("quality_flag", "flag_masks", NcType::i8,
                   {double{input_frame_missing}, double{input_pixel_missing}, double{context_truncated}});
  file.set_text("quality_flag", "flag_meanings", "input_frame_missing input_pixel_missing context_truncated");
  set_grid_attributes(file, header.grid, "quality_flag", auxiliary);
  if (classes == 0) return;
  file.add_dimension("class", classes);
  file.add_field("logits", NcType::f32, {"time", "class", y, x});
  file.set_text("logits", "long_name",
                "logits of the classes of amounts between thresholds, before calibration");
  file.set_text("logits", "units", "1");
  set_grid_attributes(file, header.grid, "logits", auxiliary);
}

/// Least and greatest latitude and longitude of the whole product. Collective.
std::vector<double> geographic_extent(const Communicator& comm, const ProductHeader& header,
                                      const ProductTile& tile) {
  std::vector<double> out; // lat_min, -lat_max, lon_min, -lon_max
  const auto add = [&](const auto& values) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    out.push_back(values.empty() ? HUGE_VAL : static_cast<double>(*least));
    out.push_back(values.empty() ? HUGE_VAL : -static_cast<double>(*most));
  };
  if (header.grid.kind == Grid::Kind::latlon) {
    add(header.grid.y);
    add(header.grid.x);
  } else {
    add(tile.latitudes);
    add(tile.longitudes);
  }
  comm.all_reduce(std::span<double>(out), Reduce::min);
  return {out[0], -out[1], out[2], -out[3]};
}

void set_globals(NcWriter& file, const ProductHeader& header, Time init, const std::string& name,
                 const std::vector<double>& extent) {
  const auto set = [&](const char* attribute, const std::string& text) {
    file.set_text("", attribute, text);
  };
  const auto [first, last] = std::minmax_element(header.leads_hours.begin(), header.leads_hours.end());
  const Time window = seconds(header.window_hours);
  std::ostringstream summary;
  summary << "Probability that the precipitation of " << header.window_hours
          << " h reaches each threshold, from a sequence of satellite images.";

  set_provenance(file, header, init);
  set("title", "Pluvia probabilistic precipitation forecast");
  set("summary", summary.str());
  set("keywords", "precipitation, probability, satellite, forecast");
  set("id", std::filesystem::path(name).stem().string());
  set("processing_level", "L4 forecast");
  set("standard_name_vocabulary", "CF Standard Name Table v92");
  set("time_coverage_start", format_time(init + seconds(*first) - window));
  set("time_coverage_end", format_time(init + seconds(*last)));
  set("time_coverage_resolution", iso_duration(window));
  const char* limits[] = {"geospatial_lat_min", "geospatial_lat_max", "geospatial_lon_min",
                          "geospatial_lon_max"};
  for (std::size_t i = 0; i < 4; ++i) file.set_numbers("", limits[i], NcType::f64, {extent[i]});
}

} // namespace

float round_probability(float probability) {
  return static_cast<float>(std::round(static_cast<double>(probability) * 1000.0) / 1000.0);
}

std::string product_name(Time init) {
  return "pluvia_pop_i" + format_time_compact(init) + ".nc";
}

void add_forecast_axes(NcWriter& file, const ProductHeader& header) {
  write_time_axis(file, header.leads_hours.size(), "validity time (end of accumulation period)");
  file.add_dimension("threshold", header.thresholds_mm.size());
  file.set_text("time", "bounds", "time_bnds");
  file.add_table("time_bnds", NcType::f64, {"time", "bnds"});
  file.add_table("forecast_reference_time", NcType::f64, {});
  file.set_text("forecast_reference_time", "standard_name", "forecast_reference_time");
  file.set_text("forecast_reference_time", "long_name", "nominal time of last satellite image used");
  file.set_text("forecast_reference_time", "units", "seconds since 1970-01-01 00:00:00");
  file.set_text("forecast_reference_time", "calendar", "standard");
  file.add_table("forecast_period", NcType::f64, {"time"});
  file.set_text("forecast_period", "standard_name", "forecast_period");
  file.set_text("forecast_period", "long_name", "lead time to end of accumulation period");
  file.set_text("forecast_period", "units", "hours");
  file.add_table("threshold", NcType::f32, {"threshold"});
  file.set_text("threshold", "standard_name", diagnostic);
  file.set_text("threshold", "long_name", "precipitation accumulation threshold");
  file.set_text("threshold", "units", "mm");
  file.set_text("threshold", "spp__relative_to_threshold", "greater_than_or_equal_to");
}

void write_forecast_axes(NcWriter& file, const ProductHeader& header, Time init) {
  const std::size_t leads = header.leads_hours.size();
  const Time window = seconds(header.window_hours);
  file.write_table("forecast_reference_time", std::vector<double>{static_cast<double>(init)});
  file.write_table("forecast_period", header.leads_hours);
  file.write_table("threshold", header.thresholds_mm);
  std::vector<double> bounds;
  for (std::size_t i = 0; i < leads; ++i) {
    const Time end = init + seconds(header.leads_hours[i]);
    write_time(file, i, end);
    bounds.push_back(static_cast<double>(end - window));
    bounds.push_back(static_cast<double>(end));
  }
  file.write_table("time_bnds", bounds);
}

void set_provenance(NcWriter& file, const ProductHeader& header, Time init) {
  const auto set = [&](const char* attribute, const std::string& text) {
    file.set_text("", attribute, text);
  };
  const Time frame = seconds(header.frame_minutes / 60);
  std::string now = format_time(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  file.communicator().broadcast(now, 0); // attributes must agree on all ranks
  set("Conventions", "CF-1.11 ACDD-1.3");
  set("source",
      "Pluvia " PLUVIA_VERSION ", weights " + header.weights_digest + ", inputs " + header.predictors);
  set("history", now + " pluvia forecast (" PLUVIA_VERSION ")");
  set("date_created", now);
  set("forecast_reference_time", format_time(init));
  set("weights_digest", header.weights_digest);
  set("input_frames", format_time(init - frame * std::max(0, header.history - 1)) + "/" + format_time(init) +
                          "/" + iso_duration(frame));
  set("configuration", header.configuration);
}

void write_product(const Communicator& comm, const std::string& path, const ProductHeader& header, Time init,
                   const ProductTile& tile) {
  together(comm, [&] { check_tile(header, tile); });
  const auto first = static_cast<std::size_t>(tile.leads.from),
             leads = static_cast<std::size_t>(tile.leads.size());
  const std::size_t thresholds = header.thresholds_mm.size();
  const auto cells = static_cast<std::size_t>(tile.tile.cells());
  std::vector<double> classes{cells > 0 ? static_cast<double>(tile.logits.size() / (leads * cells)) : 0};
  comm.all_reduce(std::span<double>(classes), Reduce::max); // an empty tile does not know
  const auto class_count = static_cast<std::size_t>(classes[0]);
  const std::vector<double> extent = geographic_extent(comm, header, tile);

  NcWriter file(comm, path);
  write_grid(file, header.grid);
  add_forecast_axes(file, header);
  add_fields(file, header, class_count);
  set_globals(file, header, init, path, extent);
  write_forecast_axes(file, header, init);
  if (header.grid.kind == Grid::Kind::projected)
    write_latitude_longitude(file, header.grid, tile.tile, tile.latitudes, tile.longitudes);

  std::vector<float> probability(tile.probability.size());
  std::transform(tile.probability.begin(), tile.probability.end(), probability.begin(), round_probability);
  file.write_tile(variable_name, {first, 0}, {leads, thresholds}, tile.tile, probability);
  std::vector<std::uint8_t> quality;
  for (std::size_t lead = 0; lead < leads; ++lead)
    quality.insert(quality.end(), tile.quality.begin(), tile.quality.end());
  file.write_tile("quality_flag", {first}, {leads}, tile.tile, quality);
  if (class_count > 0) file.write_tile("logits", {first, 0}, {leads, class_count}, tile.tile, tile.logits);
  file.commit();
}

ProductInfo read_product_info(const std::string& path) {
  const NcReader file(path);
  for (const char* needed :
       {variable_name, "threshold", "forecast_period", "forecast_reference_time", "time_bnds"})
    if (!file.has(needed))
      fail(ExitCode::data, path + " is not a probability forecast",
           std::string("it has no variable ") + needed);
  ProductInfo info;
  info.path = path;
  const NcVariable field = file.variable(variable_name);
  info.grid = read_grid(file, field);
  info.init = read_times(file, "forecast_reference_time").at(0);
  info.leads_hours = file.values("forecast_period");
  info.thresholds_mm = read_decimals(file, "threshold");
  const std::vector<double> bounds = file.values("time_bnds");
  if (field.extents.size() != 4 || field.extents[0] != info.leads_hours.size() ||
      field.extents[1] != info.thresholds_mm.size() || bounds.size() != 2 * info.leads_hours.size() ||
      bounds.empty())
    fail(ExitCode::data, path + " is not a probability forecast",
         "its dimensions are not (time, threshold, y, x)");
  info.window_hours = (bounds[1] - bounds[0]) / 3600;
  return info;
}

std::vector<float> read_product(const ProductInfo& info, const Rect& rect) {
  const NcReader file(info.path);
  const std::size_t leads = info.leads_hours.size(), thresholds = info.thresholds_mm.size();
  std::vector<float> out(leads * thresholds * static_cast<std::size_t>(rect.cells()));
  file.read(
      variable_name, {0, 0, static_cast<std::size_t>(rect.y0), static_cast<std::size_t>(rect.x0)},
      {leads, thresholds, static_cast<std::size_t>(rect.height()), static_cast<std::size_t>(rect.width())},
      out);
  return out;
}

} // namespace pluvia
