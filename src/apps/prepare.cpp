#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "pluvia/comm/stop_signals.hpp"
#include "pluvia/data/prepared_archive.hpp"
#include "pluvia/data/raw_scan.hpp"
#include "pluvia/io/glob.hpp"

// The archive is always written anew beside an existing one, whose frames are carried over, and takes its
// name in the end. Writing into the existing file would be cheaper, but a job that is killed while HDF5 holds
// unwritten metadata leaves a file that cannot be opened. This way only the new frames are at stake, times
// stay in order whatever the order in which they arrive, and many runs give what one run over all files
// gives.

namespace pluvia::commands {

namespace {

using nlohmann::json;

constexpr const char* unreadable = "frames that cannot be read";

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

/// The input files, found by rank 0. Collective.
std::vector<std::string> find_inputs(const Communicator& world, const PrepareSettings& s) {
  std::string bytes;
  together(world, [&] {
    if (world.rank() != 0) return;
    const std::vector<std::uint8_t> packed = json::to_cbor(json(matching_files(s.inputs, "prepare.inputs")));
    bytes.assign(packed.begin(), packed.end());
  });
  world.broadcast(bytes, 0);
  return json::from_cbor(bytes).get<std::vector<std::string>>();
}

/// The archive that is there already, or nothing. Collective.
std::optional<PreparedArchive> open_existing(const Communicator& world, const std::string& path,
                                             const CellGrid& grid, const SlotRule& rule) {
  std::string there = world.rank() == 0 && std::filesystem::exists(path) ? "yes" : "";
  world.broadcast(there, 0);
  std::optional<PreparedArchive> out;
  together(world, [&] {
    if (!there.empty()) out.emplace(path, grid, rule.step);
  });
  return out;
}

/// One raw frame on the grid; nothing, and a note in `skips`, when it cannot be read or has no valid cell.
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
    skips.add(unreadable, error.what());
  }
  return std::nullopt;
}

/// Adds a channel to an entry, made from its raw frames: an image, or the parts of a rain interval, whose
/// mean is missing where one of them is. Adds nothing when a frame is of no use.
void add_channel(ArchiveEntry& entry, const std::string& channel, const std::vector<FoundFrame>& frames,
                 const CellGrid& grid, Skips& skips) {
  CellMeans sum;
  for (const FoundFrame& found : frames) {
    std::optional<CellMeans> part = read_cells(found, grid, skips);
    if (!part) return;
    if (sum.mean.empty())
      sum = std::move(*part);
    else
      for (std::size_t i = 0; i < sum.mean.size(); ++i) sum.mean[i] += part->mean[i];
  }
  for (float& v : sum.mean) v /= static_cast<float>(frames.size());
  const std::vector<std::string> names = variables_of(channel, frames.front().frame.quantity);
  entry.fields[names[0]] = std::move(sum.mean);
  if (names.size() > 1) entry.fields[names[1]] = std::move(sum.least);
  entry.exact_times[channel] = static_cast<double>(frames.back().frame.end);
}

/// What all ranks need to know of a round: skips, and frames used of each channel.
struct Tally {
  Skips skips;
  std::map<std::string, std::int64_t> used;
};

/// Adds every rank's tally to `total` and warns about files that turned out damaged. Collective.
void add_all(const Communicator& world, const Tally& mine, Tally& total, const Log& log) {
  json told{{"used", mine.used}, {"skips", json::array()}};
  for (const auto& [reason, skip] : mine.skips.by_reason())
    told["skips"].push_back({reason, skip.example, skip.count});
  for (const std::string& text : world.all_gather(told.dump())) {
    const json other = json::parse(text);
    for (const auto& [channel, count] : other["used"].get<std::map<std::string, std::int64_t>>())
      total.used[channel] += count;
    for (const json& skip : other["skips"]) {
      if (skip[0] == unreadable) log.warn("skipped: " + skip[1].get<std::string>());
      total.skips.add(skip[0], skip[1], skip[2]);
    }
  }
}

/// The reasons in one line.
std::string describe(const Skips& skips) {
  std::vector<std::string> parts;
  for (const auto& [reason, skip] : skips.by_reason())
    parts.push_back(fmt::format("{} {}, as {}", skip.count, reason, skip.example));
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string count_of(const std::vector<Time>& times, const char* what) {
  return times.empty() ? fmt::format("0 {}", what)
                       : fmt::format("{} {} (as {})", times.size(), what, format_time(times.front()));
}

/// How many regular times of the range, or of what there is, lack an entry, and how many entries a channel.
std::string describe_gaps(const PreparedArchiveWriter& file, const Channels& channels, const SlotRule& rule) {
  const SlotRule open;
  const std::vector<Time>& times = file.times();
  Time first = times.front(), last = times.back();
  if (rule.from != open.from)
    while (first - rule.step >= rule.from) first -= rule.step;
  if (rule.to != open.to)
    while (last + rule.step < rule.to) last += rule.step;
  std::vector<Time> absent;
  for (Time t = first; t <= last; t += rule.step)
    if (!std::ranges::binary_search(times, t)) absent.push_back(t);
  std::string out = count_of(absent, "missing");
  for (const auto& [channel, quantity] : channels) {
    std::vector<Time> without;
    for (std::size_t i = 0; i < times.size(); ++i)
      if (!file.exact_times()[i].contains(channel)) without.push_back(times[i]);
    out += ", " + count_of(without, ("without " + channel).c_str());
  }
  return out;
}

void report(const Log& log, const Skips& skips) {
  for (const auto& [reason, skip] : skips.by_reason())
    log.info(fmt::format("Skipped {} {}, as {}", skip.count, reason, skip.example));
}

} // namespace

ExitCode prepare(const Communicator& world, const Settings& settings, const Log& log) {
  const PrepareSettings& s = settings.prepare;
  const StopSignals signals;
  const CellGrid grid = make_grid(s);
  const SlotRule rule = make_rule(s);
  const std::vector<std::string> files = find_inputs(world, s);
  const std::optional<PreparedArchive> existing = open_existing(world, s.output, grid, rule);

  RawScan scan = scan_raw_files(world, files, grid, log);
  Tally total{std::move(scan.skips), {}};
  if (scan.frames.empty())
    fail(ExitCode::data, fmt::format("None of {} input files can be used", files.size()),
         describe(total.skips));
  std::map<Time, SlotFrames> wanted =
      assign_slots(std::move(scan.frames), rule,
                   existing ? existing->present() : decltype(existing->present()){}, total.skips);
  if (wanted.empty()) {
    if (!existing) fail(ExitCode::data, "No frame of the input files can be used", describe(total.skips));
    report(log, total.skips);
    log.info("Nothing to add to " + s.output);
    return ExitCode::done;
  }
  Channels channels = existing ? existing->channels() : Channels{};
  for (const auto& [time, slot] : wanted)
    for (const auto& [channel, frames] : slot) channels.emplace(channel, frames.front().frame.quantity);
  if (existing)
    for (const Time time : existing->times()) wanted[time]; // carried over
  const std::vector<std::pair<Time, SlotFrames>> slots(wanted.begin(), wanted.end());

  PreparedArchiveWriter file(world, s.output, grid, channels, rule.step);
  log.info(fmt::format("Preparing {} x {} cells of {} degrees, {} times, {} files, {} ranks", grid.ny,
                       grid.nx, grid.cell_degrees, slots.size(), files.size(), world.size()));
  std::optional<Progress> progress(std::in_place, log, "prepare", static_cast<std::int64_t>(slots.size()));
  const auto ranks = static_cast<std::size_t>(world.size()), me = static_cast<std::size_t>(world.rank());
  std::size_t left_out = 0; // times whose new frames a request to stop came before
  bool stop = false;
  // In each round every rank makes the entry of one time, and all write theirs together.
  for (std::size_t first = 0; first < slots.size(); first += ranks) {
    const std::size_t end = std::min(first + ranks, slots.size());
    std::vector<Time> times;
    for (std::size_t i = first; i < end; ++i) {
      times.push_back(slots[i].first);
      left_out += stop && !slots[i].second.empty();
    }
    ArchiveEntry entry;
    Tally mine;
    together(world, [&] {
      if (first + me >= end) return;
      const auto& [time, new_frames] = slots[first + me];
      if (existing) entry = existing->read(time);
      if (stop) return;
      for (const auto& [channel, frames] : new_frames) {
        add_channel(entry, channel, frames, grid, mine.skips);
        if (entry.exact_times.contains(channel))
          mine.used[channel] += static_cast<std::int64_t>(frames.size());
      }
    });
    add_all(world, mine, total, log);
    file.append(times, entry);
    progress->update(static_cast<std::int64_t>(end), format_time(times.back()));
    stop = stop || signals.agreed(world);
  }
  progress.reset(); // its last line before ours

  if (total.used.empty() && left_out == 0)
    fail(ExitCode::data, "No frame of the input files can be used", describe(total.skips));
  report(log, total.skips);
  if (!total.used.empty()) {
    file.commit();
    std::vector<std::string> counts;
    for (const auto& [channel, count] : total.used) counts.push_back(fmt::format("{} of {}", count, channel));
    log.info(fmt::format("Used {} frames from {} files", fmt::join(counts, " and "), files.size()));
    log.info(fmt::format("{} holds {} times from {} to {}: {}", s.output, file.times().size(),
                         format_time(file.times().front()), format_time(file.times().back()),
                         describe_gaps(file, channels, rule)));
  }
  if (left_out == 0) return ExitCode::done;
  log.info(fmt::format("asked to stop: {} times are still to be made; run again to go on", left_out));
  return ExitCode::requeue;
}

} // namespace pluvia::commands
