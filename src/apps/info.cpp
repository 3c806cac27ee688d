#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "commands.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/sha256.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/forecast/product.hpp"
#include "pluvia/io/grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/model/checkpoint.hpp"

namespace pluvia::commands {

namespace {

std::string axis(const std::vector<double>& centres) {
  if (centres.size() < 2) return fmt::format("{:g}", centres.empty() ? 0.0 : centres[0]);
  const double spacing = (centres.back() - centres.front()) / static_cast<double>(centres.size() - 1);
  return fmt::format("{:g} to {:g} by {:.4g}", centres.front(), centres.back(), spacing);
}

std::string describe(const Grid& grid) {
  std::string out = fmt::format("grid      {} x {} cells{}\n", grid.ny(), grid.nx(),
                                closes_in_longitude(grid) ? ", closed in longitude" : "");
  out += fmt::format("  {:<8}{} {}\n", grid.y_name, axis(grid.y), grid.y_units);
  out += fmt::format("  {:<8}{} {}\n", grid.x_name, axis(grid.x), grid.x_units);
  for (const auto& [name, text] : grid.mapping_texts)
    if (name == "grid_mapping_name") out += fmt::format("  {:<8}{}\n", "crs", text);
  return out;
}

std::string duration(Time seconds) {
  if (seconds % 86400 == 0 && seconds > 0) return fmt::format("{} d", seconds / 86400);
  if (seconds % 3600 == 0 && seconds > 0) return fmt::format("{} h", seconds / 3600);
  return seconds % 60 == 0 ? fmt::format("{} min", seconds / 60) : fmt::format("{} s", seconds);
}

std::string describe_times(const ArchiveIndex& index) {
  constexpr std::size_t most_gaps = 10;
  const auto& frames = index.frames;
  std::string gaps;
  std::size_t missing = 0, count = 0;
  for (std::size_t i = 1; i < frames.size(); ++i) {
    const auto steps = static_cast<std::size_t>(std::llround(
        static_cast<double>(frames[i].time - frames[i - 1].time) / static_cast<double>(index.step)));
    if (steps <= 1) continue;
    missing += steps - 1;
    if (++count <= most_gaps)
      gaps += fmt::format("  gap     {} missing after {}\n", steps - 1, format_time(frames[i - 1].time));
  }
  if (count > most_gaps) gaps += fmt::format("  gap     and {} more\n", count - most_gaps);
  std::string out =
      fmt::format("times     {} to {}\n", format_time(frames.front().time), format_time(frames.back().time));
  if (index.step > 0) out += fmt::format("  step    {}\n", duration(index.step));
  out += fmt::format("  frames  {}, {} missing\n", frames.size(), missing);
  return out + gaps;
}

/// Least and greatest value and the share of missing cells of each variable in frames spread over the
/// archive; the ranks read different ones. Collective.
std::string describe_variables(const Communicator& world, const ArchiveIndex& index) {
  constexpr std::size_t most_frames = 48;
  const std::size_t used = std::min(most_frames, index.frames.size());
  std::string out =
      fmt::format("variables, with their range in {} of {} frames\n", used, index.frames.size());
  std::vector<ArchiveIndex::Constant> all; // with a file that has each
  for (const std::string& name : index.variables) all.push_back({name, index.frames.front().file});
  all.insert(all.end(), index.constants.begin(), index.constants.end());
  for (const auto& [name, number] : all) {
    std::optional<NcReader> file;
    together(world, [&, number = number] { file.emplace(index.files[static_cast<std::size_t>(number)]); });
    std::array<double, 2> limits{HUGE_VAL, HUGE_VAL}; // least, -greatest
    std::array<std::int64_t, 2> counts{0, 0};         // cells, missing
    together(world, [&, &name = name] {
      ArchiveReader reader(index, {0, index.grid.ny(), 0, index.grid.nx()}, 0);
      for (std::size_t k = static_cast<std::size_t>(world.rank()); k < used;
           k += static_cast<std::size_t>(world.size()))
        for (float v : reader.read(name, index.frames[k * index.frames.size() / used].time)) {
          ++counts[0];
          if (std::isnan(v))
            ++counts[1];
          else {
            limits[0] = std::min(limits[0], static_cast<double>(v));
            limits[1] = std::min(limits[1], -static_cast<double>(v));
          }
        }
    });
    world.all_reduce(std::span<double>(limits), Reduce::min);
    world.all_reduce(std::span<std::int64_t>(counts), Reduce::sum);
    const std::string range = counts[0] == counts[1] ? "no data"
                                                     : fmt::format("{:g} to {:g} {}", limits[0], -limits[1],
                                                                   file->text(name, "units"));
    out += fmt::format("  {:<16} {:<28} {:5.2f} % missing  {}\n", name, range,
                       100.0 * static_cast<double>(counts[1]) / static_cast<double>(counts[0]),
                       file->text(name, "long_name"));
  }
  return out;
}

std::string describe_archive(const Communicator& world, const std::string& file) {
  const ArchiveIndex index = index_archive(world, {file});
  return "archive   " + file + "\n" + describe(index.grid) + describe_times(index) +
         describe_variables(world, index);
}

std::string describe_checkpoint(const Communicator& world, const std::string& file) {
  std::string digest;
  const Checkpoint checkpoint = read_checkpoint_header(world, file, &digest);
  const Settings settings = parse_settings(checkpoint.configuration, file, {});
  std::size_t parameters = 0, values = 0;
  for (const auto& [name, array] : checkpoint.arrays) {
    values += array.values.size();
    if (name.rfind("weights/", 0) == 0) parameters += array.values.size();
  }
  std::string out = fmt::format("checkpoint {} (whole: its digest matches)\n", file);
  out += fmt::format("digest    {}\n", digest);
  out += fmt::format("step      {}\n", checkpoint.step);
  out += fmt::format("network   {} parameters; {} arrays with {} values in all\n", parameters,
                     checkpoint.arrays.size(), values);
  out += fmt::format("input     {} frames of {:g} min: {}\n", settings.model.history,
                     settings.model.frame_minutes, fmt::join(settings.data.predictors, ", "));
  out += fmt::format("channels  {}; {} attention\n", fmt::join(settings.model.channels, ", "),
                     settings.model.attention.form);
  out += fmt::format("base      {}\n", settings.model.base);
  out += fmt::format("leads     {} h, windows of {:g} h\n", fmt::join(settings.target.leads_hours, ", "),
                     settings.target.window_hours);
  out += fmt::format("heads     P(rain >= {} mm)\n", fmt::join(settings.target.thresholds_mm, ", "));
  std::vector<std::string> names;
  for (const auto& [name, text] : checkpoint.texts) names.push_back(name);
  if (!names.empty()) out += fmt::format("also      {}\n", fmt::join(names, ", "));
  out += fmt::format("configuration {}\n", sha256(checkpoint.configuration));
  return out;
}

/// Mean probability over valid cells of each lead and threshold. Local; reads bands of rows.
std::string describe_probabilities(const ProductInfo& info) {
  constexpr Index band = 256;
  const std::size_t leads = info.leads_hours.size(), thresholds = info.thresholds_mm.size();
  std::vector<double> sums(leads * thresholds, 0.0);
  std::vector<std::size_t> valid(leads * thresholds, 0);
  for (Index y = 0; y < info.grid.ny(); y += band) {
    const Rect rows{y, std::min(y + band, Index{info.grid.ny()}), 0, info.grid.nx()};
    const std::vector<float> values = read_product(info, rows);
    const auto cells = static_cast<std::size_t>(rows.cells());
    for (std::size_t i = 0; i < values.size(); ++i)
      if (!std::isnan(values[i])) sums[i / cells] += static_cast<double>(values[i]), ++valid[i / cells];
  }
  std::string out = "mean probability over the cells that have one\n  lead [h]    ";
  for (double threshold : info.thresholds_mm)
    out += fmt::format("{:>13}", fmt::format(">= {:g} mm", threshold));
  out += "   missing\n";
  const auto cells = static_cast<double>(info.grid.ny() * info.grid.nx());
  for (std::size_t lead = 0; lead < leads; ++lead) {
    out += fmt::format("  {:<12g}", info.leads_hours[lead]);
    for (std::size_t k = lead * thresholds; k < (lead + 1) * thresholds; ++k)
      out += valid[k] == 0 ? fmt::format("{:>13}", "-")
                           : fmt::format("{:>13.4f}", sums[k] / static_cast<double>(valid[k]));
    out +=
        fmt::format("  {:6.2f} %\n", 100.0 - 100.0 * static_cast<double>(valid[lead * thresholds]) / cells);
  }
  return out;
}

std::string describe_forecast(const std::string& file) {
  const ProductInfo info = read_product_info(file);
  const NcReader reader(file);
  std::string out = "forecast  " + file + "\n";
  out += fmt::format("init      {}\n", format_time(info.init));
  for (double lead : info.leads_hours) {
    const Time end = info.init + std::llround(lead * 3600);
    out += fmt::format("  +{:<5g} h ({}, {}]\n", lead,
                       format_time(end - std::llround(info.window_hours * 3600)), format_time(end));
  }
  out += fmt::format("thresholds {} mm in {:g} h\n", fmt::join(info.thresholds_mm, ", "), info.window_hours);
  out += describe(info.grid) + describe_probabilities(info);
  for (const char* attribute : {"source", "input_frames", "date_created"})
    if (const std::string text = reader.text("", attribute); !text.empty())
      out += fmt::format("{}: {}\n", attribute, text);
  return out;
}

std::string describe_attention(const std::string& file) {
  const NcReader reader(file);
  std::string out = "attention " + file + "\n";
  out += fmt::format("forecast  {}\n", reader.text("", "forecast_reference_time"));
  const std::vector<double> lat = reader.values("lat"), lon = reader.values("lon");
  for (std::size_t i = 0; i < lat.size(); ++i)
    out += fmt::format("  point {}  [{:g}, {:g}]\n", i + 1, lat[i], lon[i]);
  for (const NcVariable& variable : reader.variables())
    if (variable.name.find("_weight_level") != std::string::npos)
      out += fmt::format("  {}({})\n", variable.name, fmt::join(variable.dimensions, ", "));
  out += fmt::format("source: {}\n", reader.text("", "source"));
  return out;
}

enum class Content { archive, checkpoint, forecast, attention };

/// What rank 0 finds at a glance, told to all. Collective.
Content content_of(const Communicator& world, const std::string& file) {
  std::array<std::int64_t, 1> found{0};
  together(world, [&] {
    if (world.rank() != 0) return;
    if (is_checkpoint(file))
      found[0] = static_cast<std::int64_t>(Content::checkpoint);
    else if (const NcReader reader(file); reader.has("skip_weight_level0"))
      found[0] = static_cast<std::int64_t>(Content::attention);
    else if (reader.has("probability_of_precipitation"))
      found[0] = static_cast<std::int64_t>(Content::forecast);
  });
  world.all_reduce(std::span<std::int64_t>(found), Reduce::max);
  return static_cast<Content>(found[0]);
}

} // namespace

ExitCode info(const Communicator& world, const std::string& file, const Log& log) {
  std::string out;
  switch (content_of(world, file)) {
  case Content::archive:
    out = describe_archive(world, file);
    break;
  case Content::checkpoint:
    out = describe_checkpoint(world, file);
    break;
  case Content::forecast:
    together(world, [&] {
      if (world.rank() == 0) out = describe_forecast(file);
    });
    break;
  case Content::attention:
    together(world, [&] {
      if (world.rank() == 0) out = describe_attention(file);
    });
    break;
  }
  if (log.voice() != Log::Voice::silent) std::fputs(out.c_str(), stdout);
  return ExitCode::done;
}

} // namespace pluvia::commands
