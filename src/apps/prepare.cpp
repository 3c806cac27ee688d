#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "pluvia/data/raw_scan.hpp"
#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/glob.hpp"
#include "pluvia/io/netcdf.hpp"

// The archive is always written anew beside an existing one, whose frames are carried over, and takes its
// name in the end. Writing into the existing file would be cheaper, but a job that is killed while HDF5 holds
// unwritten metadata leaves a file that cannot be opened; so only the new frames are at stake, times stay in
// order whatever the order in which they arrive, and a second run gives what one run over all files gives.

namespace pluvia::commands {

namespace {

using nlohmann::json;

constexpr const char* maker = "pluvia prepare";

/// Of a channel's variables: their names, and what they hold.
struct Field {
  std::string name, standard_name, long_name, units, cell_methods;
  double scale, offset; ///< as packed
};
std::vector<Field> fields_of(const std::string& channel, Quantity quantity) {
  if (quantity == Quantity::precipitation_rate)
    return {{channel, "lwe_precipitation_rate", "mean precipitation rate over the interval that ends at time",
             "mm h-1", "area: mean time: mean", 0.01, 0}};
  const char* name = "toa_brightness_temperature";
  return {{channel + "_mean", name, "mean brightness temperature of the pixels in the cell", "K",
           "area: mean time: point", 0.01, 250},
          {channel + "_min", name, "brightness temperature of the coldest pixel in the cell", "K",
           "area: minimum time: point", 0.01, 250}};
}

const char* word(Quantity quantity) {
  return quantity == Quantity::precipitation_rate ? "precipitation_rate" : "brightness_temperature";
}

/// The table that says when exactly a channel was measured; missing where the frame has it not.
std::string table_of(const std::string& channel) {
  return channel + "_time";
}

using Channels = std::map<std::string, Quantity>;

/// What one time of the archive holds, before or after the fields are made.
struct Entry {
  std::map<std::string, double> exact_times; ///< by channel
  std::map<std::string, std::vector<float>> fields;
};

/// An archive of an earlier run.
struct Archive {
  NcReader file;
  Channels channels;
  std::map<Time, std::size_t> positions;
  std::map<Time, std::map<std::string, double>> exact_times;
};

CellGrid make_grid(const PrepareSettings& s) {
  const auto count = [&](double from, double to, const char* names) {
    const double cells = (to - from) / s.cell_degrees;
    if (cells < 0.5)
      fail(ExitCode::usage, fmt::format("The grid of {} is empty", names), fmt::format("{} to {}", from, to),
           "Set prepare.south, north, west and east.");
    if (std::abs(cells - std::round(cells)) > 1e-6 * cells)
      fail(
          ExitCode::usage,
          fmt::format("{} span {} degrees, no whole number of cells of {}", names, to - from, s.cell_degrees),
          {}, "Move an edge or change prepare.cell_degrees.");
    return static_cast<Index>(std::llround(cells));
  };
  const CellGrid grid{s.south, s.west, s.cell_degrees, count(s.south, s.north, "prepare.south and north"),
                      count(s.west, s.east, "prepare.west and east")};
  if (s.east - s.west > 360 + 1e-9)
    fail(ExitCode::usage, "prepare.west to east goes around the Earth more than once");
  return grid;
}

SlotRule make_rule(const PrepareSettings& s) {
  SlotRule rule;
  rule.step = std::llround(s.frame_minutes * 60);
  rule.tolerance = std::llround(s.tolerance_minutes * 60);
  if (!s.range.from.empty()) rule.from = parse_time(s.range.from);
  if (!s.range.to.empty()) rule.to = parse_time(s.range.to);
  return rule;
}

std::vector<std::string> find_inputs(const Communicator& world, const PrepareSettings& s) {
  std::string bytes;
  together(world, [&] {
    if (world.rank() != 0) return;
    std::vector<std::string> files = matching_files(s.inputs, "prepare.inputs");
    const std::vector<std::uint8_t> packed = json::to_cbor(json(files));
    bytes.assign(packed.begin(), packed.end());
  });
  world.broadcast(bytes, 0);
  return json::from_cbor(bytes).get<std::vector<std::string>>();
}

/// The archive that is there already, or nothing. Throws a usage Error when it was not made by this program
/// with the same grid and spacing. Collective.
std::optional<Archive> open_existing(const Communicator& world, const PrepareSettings& s,
                                     const CellGrid& grid, const SlotRule& rule) {
  std::string there = world.rank() == 0 && std::filesystem::exists(s.output) ? "yes" : "";
  world.broadcast(there, 0);
  std::optional<Archive> out;
  if (there.empty()) return out;
  together(world, [&] {
    const auto refuse = [&](const std::string& why) {
      fail(ExitCode::usage, s.output + " cannot be gone on with", why,
           "Give another prepare.output, or remove it.");
    };
    if (!is_netcdf(s.output)) refuse("it is no archive");
    NcReader file(s.output);
    if (!file.text("", "source").starts_with(maker)) refuse(fmt::format("`{}` did not write it", maker));
    const std::vector<double> minutes = file.numbers("", "frame_minutes");
    if (minutes.size() != 1 || std::llround(minutes[0] * 60) != rule.step)
      refuse(fmt::format("its frames are {} minutes apart", fmt::join(minutes, ", ")));
    Archive archive{std::move(file), {}, {}, {}};
    for (const NcVariable& variable : archive.file.variables()) {
      const std::string quantity = archive.file.text(variable.name, "quantity");
      if (quantity.empty()) continue;
      const std::string channel = variable.name.substr(0, variable.name.rfind('_'));
      for (const Quantity q : {Quantity::brightness_temperature, Quantity::precipitation_rate})
        if (quantity == word(q)) archive.channels[channel] = q;
    }
    const Grid wanted = grid.grid();
    for (const auto& [channel, quantity] : archive.channels) {
      const Grid found = read_grid(archive.file, archive.file.variable(fields_of(channel, quantity)[0].name));
      if (found.y != wanted.y || found.x != wanted.x)
        refuse(fmt::format("its {} x {} cells are others", found.ny(), found.nx()));
    }
    const std::vector<Time> times = read_times(archive.file, "time");
    for (std::size_t i = 0; i < times.size(); ++i) archive.positions[times[i]] = i;
    for (const auto& [channel, quantity] : archive.channels) {
      const std::vector<double> exact = archive.file.values(table_of(channel));
      for (std::size_t i = 0; i < times.size(); ++i)
        if (!std::isnan(exact[i])) archive.exact_times[times[i]][channel] = exact[i];
    }
    out.emplace(std::move(archive));
  });
  return out;
}

/// Every variable of the archive, with what the CF conventions ask for. Collective.
void define_archive(NcWriter& file, const CellGrid& grid, const Channels& channels, double frame_minutes) {
  file.set_text("", "Conventions", "CF-1.11, ACDD-1.3");
  file.set_text("", "title", "Satellite images and precipitation gathered in cells");
  file.set_text("", "summary",
                "Area means and coldest pixels of satellite images and mean precipitation rates on a regular "
                "grid and at regular times. Rain at time t is the mean over (t - frame_minutes, t]. Packing "
                "rounds by at most 0.005 K and 0.005 mm h-1. Cells with less than half of their pixels valid "
                "are missing.");
  file.set_text("", "source", fmt::format("{} {}", maker, PLUVIA_VERSION));
  file.set_numbers("", "frame_minutes", NcType::f64, {frame_minutes});
  const Grid coordinates = grid.grid();
  write_grid(file, coordinates);
  write_time_axis(file, NcWriter::unlimited, "end of the interval of precipitation, moment of the images");
  file.set_text("time", "bounds", "time_bnds");
  file.add_table("time_bnds", NcType::f64, {"time", "bnds"});
  for (const auto& [channel, quantity] : channels) {
    for (const Field& field : fields_of(channel, quantity)) {
      file.add_packed_field(field.name, {"time", "lat", "lon"}, field.scale, field.offset);
      file.set_text(field.name, "standard_name", field.standard_name);
      file.set_text(field.name, "long_name", field.long_name);
      file.set_text(field.name, "units", field.units);
      file.set_text(field.name, "cell_methods", field.cell_methods);
      set_grid_attributes(file, coordinates, field.name);
    }
    const std::string table = table_of(channel);
    file.add_table(table, NcType::f64, {"time"});
    file.set_numbers(table, "_FillValue", NcType::f64, {static_cast<double>(NcWriter::fill)});
    file.set_text(table, "long_name",
                  quantity == Quantity::precipitation_rate ? "end of the interval as its file names it"
                                                           : "time of the image as its file names it");
    file.set_text(table, "units", "seconds since 1970-01-01 00:00:00");
    file.set_text(table, "calendar", "standard");
    file.set_text(table, "quantity", word(quantity));
  }
}

/// One raw frame on the grid. Nothing, and a note in `skips`, when it cannot be read or has no valid cell.
std::optional<CellMeans> read_cells(const FoundFrame& found, const CellGrid& grid, Skips& skips) {
  const std::string name = format_time(found.frame.end) + " in " + found.file;
  try {
    const std::unique_ptr<RawFile> file = open_raw_file(found.file);
    const Geolocation where = file->locate(grid.box(), grid.cell_degrees);
    CellMeans cells =
        gather_in_cells(grid, where, found.frame.quantity, file->read(found.frame, where.window));
    if (cells.impossible > 0)
      skips.add("pixels with values that cannot be", name, static_cast<std::int64_t>(cells.impossible));
    if (std::ranges::any_of(cells.mean, [](float v) { return !std::isnan(v); })) return cells;
    skips.add("frames without a valid cell", name);
  } catch (const Error& error) {
    skips.add("frames that cannot be read", error.what());
  }
  return std::nullopt;
}

/// Adds a channel of one time, made from its raw frames: an image, or the parts of a rain interval, whose
/// mean is missing where one of them is.
void add_channel(Entry& entry, const std::string& channel, const std::vector<FoundFrame>& frames,
                 const CellGrid& grid, Skips& skips) {
  std::optional<CellMeans> sum;
  for (const FoundFrame& found : frames) {
    std::optional<CellMeans> part = read_cells(found, grid, skips);
    if (!part) return;
    if (!sum) {
      sum = std::move(part);
      continue;
    }
    for (std::size_t i = 0; i < sum->mean.size(); ++i) sum->mean[i] += part->mean[i];
  }
  for (float& v : sum->mean) v /= static_cast<float>(frames.size());
  const std::vector<Field> fields = fields_of(channel, frames.front().frame.quantity);
  entry.fields[fields[0].name] = std::move(sum->mean);
  if (fields.size() > 1) entry.fields[fields[1].name] = std::move(sum->least);
  entry.exact_times[channel] = static_cast<double>(frames.back().frame.end);
}

/// The tables of what has been written, frame by frame.
struct Written {
  std::vector<Time> times;
  std::vector<std::map<std::string, double>> exact_times;
};

void write_tables(NcWriter& file, const Written& written, const Channels& channels, Time step) {
  const std::size_t n = written.times.size();
  std::vector<double> times, bounds;
  for (const Time t : written.times) {
    times.push_back(static_cast<double>(t));
    bounds.insert(bounds.end(), {static_cast<double>(t - step), static_cast<double>(t)});
  }
  file.write_table("time", {0}, {n}, times);
  file.write_table("time_bnds", {0, 0}, {n, 2}, bounds);
  for (const auto& [channel, quantity] : channels) {
    std::vector<double> exact;
    for (const auto& at : written.exact_times)
      exact.push_back(at.contains(channel) ? at.at(channel) : static_cast<double>(NcWriter::fill));
    file.write_table(table_of(channel), {0}, {n}, exact);
  }
}

void report(const Log& log, const Skips& skips) {
  for (const auto& [reason, skip] : skips.by_reason())
    log.info(fmt::format("Skipped {} {}, as {}", skip.count, reason, skip.example));
}

/// How many regular times lack a frame, or a channel of one.
std::string describe_gaps(const Written& written, const Channels& channels, const SlotRule& rule) {
  const SlotRule open;
  const Time first =
      rule.from != open.from ? std::min(rule.from, written.times.front()) : written.times.front();
  const Time last = rule.to != open.to ? std::max(rule.to - 1, written.times.back()) : written.times.back();
  const auto index = [&](Time t) { return (t >= 0 ? t : t - rule.step + 1) / rule.step; };
  const Time expected = index(last) - index(first - 1);
  std::string out =
      fmt::format("{} of {} times are missing", expected - static_cast<Time>(written.times.size()), expected);
  for (const auto& [channel, quantity] : channels) {
    std::vector<Time> without;
    for (std::size_t i = 0; i < written.times.size(); ++i)
      if (!written.exact_times[i].contains(channel)) without.push_back(written.times[i]);
    if (!without.empty())
      out += fmt::format(", {} have no {} (as {})", without.size(), channel, format_time(without.front()));
  }
  return out;
}

/// One line that says why nothing came of the inputs.
std::string why_nothing(const Skips& skips) {
  std::vector<std::string> parts;
  for (const auto& [reason, skip] : skips.by_reason())
    parts.push_back(fmt::format("{} {}, as {}", skip.count, reason, skip.example));
  return fmt::format("{}", fmt::join(parts, "; "));
}

} // namespace

ExitCode prepare(const Communicator& world, const Settings& settings, const Log& log) {
  const PrepareSettings& s = settings.prepare;
  const CellGrid grid = make_grid(s);
  const SlotRule rule = make_rule(s);
  const std::vector<std::string> files = find_inputs(world, s);
  std::optional<Archive> existing = open_existing(world, s, grid, rule);

  RawScan scan = scan_raw_files(world, files, grid, log);
  Skips& skips = scan.skips;
  if (scan.frames.empty())
    fail(ExitCode::data, fmt::format("None of {} input files can be used", files.size()), why_nothing(skips));
  std::map<Time, std::set<std::string>> present;
  if (existing)
    for (const auto& [time, exact] : existing->exact_times)
      for (const auto& [channel, t] : exact) present[time].insert(channel);
  std::map<Time, SlotFrames> wanted = assign_slots(std::move(scan.frames), rule, present, skips);
  if (wanted.empty()) {
    if (!existing) fail(ExitCode::data, "No frame of the input files can be used", why_nothing(skips));
    report(log, skips);
    log.info(fmt::format("Nothing to add to {}", s.output));
    return ExitCode::done;
  }

  Channels channels;
  if (existing) channels = existing->channels;
  for (const auto& [time, slot] : wanted)
    for (const auto& [channel, frames] : slot) channels.emplace(channel, frames.front().frame.quantity);
  if (existing)
    for (const auto& [time, position] : existing->positions) wanted[time]; // carried over
  const std::vector<std::pair<Time, SlotFrames>> slots(wanted.begin(), wanted.end());

  NcWriter file(world, s.output);
  define_archive(file, grid, channels, s.frame_minutes);
  log.info(fmt::format("Preparing {} x {} cells of {} degrees, {} times, {} files, {} ranks", grid.ny,
                       grid.nx, grid.cell_degrees, slots.size(), files.size(), world.size()));
  std::optional<Progress> progress(std::in_place, log, "prepare", static_cast<std::int64_t>(slots.size()));

  // In each round every rank makes the frame of one time, and all write theirs together.
  const auto ranks = static_cast<std::size_t>(world.size()), me = static_cast<std::size_t>(world.rank());
  const std::vector<float> no_field(grid.cells(), std::numeric_limits<float>::quiet_NaN());
  Written written;
  std::map<std::string, std::int64_t> used; // new frames of each channel
  for (std::size_t first = 0; first < slots.size(); first += ranks) {
    Entry entry;
    json told{{"times", json::object()}, {"used", json::array()}, {"skips", json::array()}};
    together(world, [&] {
      if (first + me >= slots.size()) return;
      const auto& [time, frames] = slots[first + me];
      if (existing && existing->positions.contains(time)) {
        entry.exact_times = existing->exact_times[time];
        for (const auto& [channel, exact] : entry.exact_times)
          for (const Field& field : fields_of(channel, channels.at(channel))) {
            std::vector<float>& values = entry.fields[field.name] = no_field;
            existing->file.read(field.name, {existing->positions[time], 0, 0},
                                {1, static_cast<std::size_t>(grid.ny), static_cast<std::size_t>(grid.nx)},
                                values);
          }
      }
      Skips here;
      for (const auto& [channel, found] : frames) {
        add_channel(entry, channel, found, grid, here);
        if (entry.exact_times.contains(channel)) told["used"].push_back({channel, found.size()});
      }
      for (const auto& [channel, exact] : entry.exact_times) told["times"][channel] = exact;
      for (const auto& [reason, skip] : here.by_reason())
        told["skips"].push_back({reason, skip.example, skip.count});
    });

    std::size_t my_position = 0;
    const std::size_t before = written.times.size();
    const std::vector<std::string> all = world.all_gather(told.dump());
    for (std::size_t r = 0; r < ranks && first + r < slots.size(); ++r) {
      const json other = json::parse(all[r]);
      for (const json& skip : other["skips"]) {
        if (skip[0] == "frames that cannot be read") log.warn("skipped: " + skip[1].get<std::string>());
        skips.add(skip[0], skip[1], skip[2]);
      }
      for (const json& u : other["used"]) used[u[0]] += u[1].get<std::int64_t>();
      if (other["times"].empty()) continue;
      if (r == me) my_position = written.times.size();
      written.times.push_back(slots[first + r].first);
      written.exact_times.push_back(other["times"].get<std::map<std::string, double>>());
    }
    if (written.times.size() > before) {
      const Rect whole = entry.exact_times.empty() ? Rect{} : Rect{0, grid.ny, 0, grid.nx};
      for (const auto& [channel, quantity] : channels)
        for (const Field& field : fields_of(channel, quantity)) {
          const auto made = entry.fields.find(field.name);
          const std::vector<float>& values = made == entry.fields.end() ? no_field : made->second;
          file.write_tile(field.name, {my_position}, {1}, whole,
                          std::span(values).first(static_cast<std::size_t>(whole.cells())));
        }
    }
    progress->update(static_cast<std::int64_t>(std::min(first + ranks, slots.size())),
                     format_time(slots[first].first));
  }
  if (used.empty()) fail(ExitCode::data, "No frame of the input files can be used", why_nothing(skips));
  write_tables(file, written, channels, rule.step);
  file.commit();
  progress.reset(); // its last line before ours

  report(log, skips);
  std::vector<std::string> counts;
  for (const auto& [channel, count] : used) counts.push_back(fmt::format("{} of {}", count, channel));
  log.info(fmt::format("Used {} frames from {} files", fmt::join(counts, " and "), files.size()));
  log.info(fmt::format("{} holds {} times from {} to {}: {}", s.output, written.times.size(),
                       format_time(written.times.front()), format_time(written.times.back()),
                       describe_gaps(written, channels, rule)));
  return ExitCode::done;
}

} // namespace pluvia::commands
