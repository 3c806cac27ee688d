#include "pluvia/data/archive.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <list>
#include <map>

#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/glob.hpp"
#include "pluvia/io/netcdf.hpp"

namespace pluvia {

namespace {

struct FileContents {
  Grid grid;
  std::vector<std::string> variables, constants;
  std::vector<Time> times;
};

/// What one file adds to an archive: its variables on (time, y, x), all on the same dimensions, and those on
/// (y, x) alone.
FileContents scan(const NcReader& file) {
  FileContents out;
  std::vector<std::string> dimensions;
  std::vector<NcVariable> flat;
  for (const NcVariable& variable : file.variables()) {
    const auto has_coordinate = [&](const std::string& name) {
      return file.has(name) && file.variable(name).dimensions == std::vector<std::string>{name};
    };
    if (!std::all_of(variable.dimensions.begin(), variable.dimensions.end(), has_coordinate)) continue;
    if (variable.dimensions.size() == 2) flat.push_back(variable);
    if (variable.dimensions.size() != 3) continue;
    const std::string units = file.text(variable.dimensions[0], "units");
    if (units.find(" since ") == std::string::npos) continue;
    if (dimensions.empty()) {
      dimensions = variable.dimensions;
      out.grid = read_grid(file, variable);
      out.times = read_times(file, dimensions[0]);
    }
    if (variable.dimensions == dimensions) out.variables.push_back(variable.name);
  }
  if (out.variables.empty() && !flat.empty()) out.grid = read_grid(file, flat.front());
  for (const NcVariable& variable : flat)
    if (variable.dimensions == std::vector{out.grid.y_name, out.grid.x_name})
      out.constants.push_back(variable.name);
  if (out.variables.empty() && out.constants.empty())
    fail(ExitCode::data, file.path() + " holds no variable on (time, lat, lon) or (time, y, x)",
         "an archive needs them in this order, with 1-D coordinates",
         "Reorder its dimensions, for example with ncpdq.");
  return out;
}

/// Equal up to a hundredth of a cell: files of one archive may have been rounded differently.
bool same_axis(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return false;
  const double cell = a.size() > 1 ? std::abs(a[1] - a[0]) : 1.0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::abs(a[i] - b[i]) > 0.01 * cell) return false;
  return true;
}

/// The most frequent value, the smallest of those that are equally frequent.
Time most_frequent(const std::map<Time, std::size_t>& counts) {
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

/// Finds the regular spacing and refuses frames that cannot be told apart on it.
Time regular_step(const ArchiveIndex& index) {
  const auto describe = [&](std::size_t i) {
    const auto& frame = index.frames[i];
    return format_time(frame.time) + " in " + index.files[static_cast<std::size_t>(frame.file)];
  };
  std::map<Time, std::size_t> spacings;
  for (std::size_t i = 1; i < index.frames.size(); ++i) {
    const Time spacing = index.frames[i].time - index.frames[i - 1].time;
    if (spacing == 0)
      fail(ExitCode::data, "The archive holds " + describe(i - 1) + " twice", "again in " + describe(i),
           "Remove one of them.");
    ++spacings[spacing];
  }
  if (spacings.empty()) return 0;
  const Time step = most_frequent(spacings);

  const auto remainder = [&](Time t) { return ((t % step) + step) % step; };
  std::map<Time, std::size_t> phases;
  for (const auto& frame : index.frames) ++phases[remainder(frame.time)];
  const Time phase = most_frequent(phases);
  std::optional<Time> last;
  for (std::size_t i = 0; i < index.frames.size(); ++i) {
    const Time past = remainder(index.frames[i].time - phase); // the slot before this frame lies so far back
    const Time slot = index.frames[i].time - past + (2 * past > step ? step : 0);
    if (2 * past == step)
      fail(ExitCode::data, "The frame " + describe(i) + " lies half-way between two regular times",
           "the archive's step is " + std::to_string(step) + " s", "Remove or correct it.");
    if (last && *last == slot)
      fail(ExitCode::data,
           "The frames " + describe(i - 1) + " and " + describe(i) + " stand for the same time",
           format_time(slot) + "; the archive's step is " + std::to_string(step) + " s",
           "Remove one of them.");
    last = slot;
  }
  return step;
}

ArchiveIndex make_index(const std::vector<std::string>& patterns) {
  ArchiveIndex index;
  index.files = matching_files(patterns, "data.archive");
  std::vector<FileContents> all;
  for (const std::string& file : index.files) all.push_back(scan(NcReader(file)));
  // Fields without time may come first; grid and variables are those of the frames.
  const auto leading = static_cast<std::size_t>(
      std::ranges::find_if(all, [](const auto& c) { return !c.times.empty(); }) - all.begin());
  if (leading == all.size()) fail(ExitCode::data, "The archive " + index.files[0] + " holds no frame");
  index.grid = all[leading].grid;
  index.variables = all[leading].variables;
  for (std::size_t f = 0; f < all.size(); ++f) {
    const FileContents& contents = all[f];
    if (!same_axis(contents.grid.y, index.grid.y) || !same_axis(contents.grid.x, index.grid.x))
      fail(ExitCode::data, "The grids of " + index.files[leading] + " and " + index.files[f] + " differ", {},
           "Regrid one of them, or give two archives.");
    for (const std::string& name : contents.constants)
      if (std::ranges::find(index.constants, name, &ArchiveIndex::Constant::name) == index.constants.end())
        index.constants.push_back({name, static_cast<int>(f)});
    if (!contents.variables.empty()) {
      std::erase_if(index.variables, [&](const std::string& name) {
        return std::find(contents.variables.begin(), contents.variables.end(), name) ==
               contents.variables.end();
      });
      if (index.variables.empty())
        fail(ExitCode::data, index.files[f] + " has no variable in common with the files before it");
    }
    for (std::size_t t = 0; t < contents.times.size(); ++t)
      index.frames.push_back({contents.times[t], static_cast<int>(f), static_cast<long>(t)});
  }
  std::stable_sort(index.frames.begin(), index.frames.end(),
                   [](const auto& a, const auto& b) { return a.time < b.time; });
  index.step = regular_step(index);
  return index;
}

using nlohmann::json;

std::string pack(const ArchiveIndex& index) {
  json frames = json::array();
  for (const auto& f : index.frames) frames.push_back({f.time, f.file, f.position});
  json constants = json::array();
  for (const auto& c : index.constants) constants.push_back({c.name, c.file});
  const Grid& g = index.grid;
  const json all{{"files", index.files},
                 {"constants", constants},
                 {"frames", frames},
                 {"step", index.step},
                 {"variables", index.variables},
                 {"latlon", g.kind == Grid::Kind::latlon},
                 {"names", {g.y_name, g.x_name, g.y_units, g.x_units}},
                 {"y", g.y},
                 {"x", g.x},
                 {"numbers", g.mapping_numbers},
                 {"texts", g.mapping_texts}};
  const std::vector<std::uint8_t> bytes = json::to_cbor(all);
  return {bytes.begin(), bytes.end()};
}

ArchiveIndex unpack(const std::string& bytes) {
  const json all = json::from_cbor(bytes);
  ArchiveIndex index;
  index.files = all["files"].get<std::vector<std::string>>();
  for (const json& f : all["frames"])
    index.frames.push_back({f[0].get<Time>(), f[1].get<int>(), f[2].get<long>()});
  for (const json& c : all["constants"])
    index.constants.push_back({c[0].get<std::string>(), c[1].get<int>()});
  index.step = all["step"].get<Time>();
  index.variables = all["variables"].get<std::vector<std::string>>();
  Grid& g = index.grid;
  g.kind = all["latlon"].get<bool>() ? Grid::Kind::latlon : Grid::Kind::projected;
  g.y_name = all["names"][0], g.x_name = all["names"][1], g.y_units = all["names"][2],
  g.x_units = all["names"][3];
  g.y = all["y"].get<std::vector<double>>();
  g.x = all["x"].get<std::vector<double>>();
  g.mapping_numbers = all["numbers"].get<decltype(g.mapping_numbers)>();
  g.mapping_texts = all["texts"].get<decltype(g.mapping_texts)>();
  return index;
}

} // namespace

ArchiveIndex index_archive(const Communicator& comm, const std::vector<std::string>& patterns) {
  std::string bytes;
  together(comm, [&] {
    if (comm.rank() == 0) bytes = pack(make_index(patterns));
  });
  comm.broadcast(bytes, 0);
  return unpack(bytes);
}

std::optional<std::size_t> find_frame(const ArchiveIndex& index, Time time) {
  const auto& frames = index.frames;
  const auto later =
      std::lower_bound(frames.begin(), frames.end(), time,
                       [](const ArchiveIndex::Frame& frame, Time t) { return frame.time < t; });
  std::optional<std::size_t> best;
  Time distance = std::numeric_limits<Time>::max();
  const auto consider = [&](auto it) {
    const Time d = std::abs(it->time - time);
    if ((d == 0 || 2 * d < index.step) && d < distance)
      distance = d, best = static_cast<std::size_t>(it - frames.begin());
  };
  if (later != frames.begin()) consider(later - 1);
  if (later != frames.end()) consider(later);
  return best;
}

struct ArchiveReader::Impl {
  using Key = std::pair<std::string, std::size_t>; // variable, frame
  struct Decoded {
    Key key;
    std::vector<float> values;
  };
  static constexpr std::size_t most_open_files = 8;

  ArchiveIndex index;
  Rect rect;
  std::size_t cache_bytes;
  std::list<Decoded> decoded; // the most recently used first
  std::map<Key, std::list<Decoded>::iterator> where;
  std::map<int, NcReader> open;
  std::int64_t bytes_read = 0;

  const NcReader& file(int number) {
    const auto found = open.find(number);
    if (found != open.end()) return found->second;
    if (open.size() == most_open_files) open.clear();
    return open.emplace(number, NcReader(index.files[static_cast<std::size_t>(number)])).first->second;
  }

  std::size_t frame_bytes() const { return static_cast<std::size_t>(rect.cells()) * sizeof(float); }

  std::vector<float> coordinate(Coordinate which) {
    const NcReader& first = file(index.frames.front().file);
    return read_coordinate(first, first.variable(index.variables.front()), index.grid, rect, which);
  }
};

ArchiveReader::ArchiveReader(const ArchiveIndex& index, Rect rect, std::size_t cache_bytes)
    : impl_(std::make_unique<Impl>(Impl{index, rect, cache_bytes, {}, {}, {}})) {
  const Rect domain{0, index.grid.ny(), 0, index.grid.nx()};
  if (rect.empty() || intersect(rect, domain) != rect)
    fail(ExitCode::failed, "A rectangle to read reaches beyond the archive's grid");
}
ArchiveReader::~ArchiveReader() = default;
ArchiveReader::ArchiveReader(ArchiveReader&&) noexcept = default;
ArchiveReader& ArchiveReader::operator=(ArchiveReader&&) noexcept = default;

const ArchiveIndex& ArchiveReader::index() const {
  return impl_->index;
}
const Rect& ArchiveReader::rect() const {
  return impl_->rect;
}
std::vector<float> ArchiveReader::latitudes() const {
  return impl_->coordinate(Coordinate::latitude);
}
std::vector<float> ArchiveReader::longitudes() const {
  return impl_->coordinate(Coordinate::longitude);
}

std::int64_t ArchiveReader::bytes_read() const {
  return impl_->bytes_read;
}

std::span<const float> ArchiveReader::read(const std::string& variable, Time time) {
  Impl& self = *impl_;
  const auto& names = self.index.variables;
  const auto& constants = self.index.constants;
  const auto constant = std::ranges::find(constants, variable, &ArchiveIndex::Constant::name);
  const bool varies = std::ranges::find(names, variable) != names.end();
  if (!varies && constant == constants.end()) {
    std::string known;
    for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
    for (const auto& field : constants) known += ", " + field.name;
    fail(ExitCode::usage, "The archive has no variable " + variable, "it has " + known,
         "Correct data.predictors or data.target.");
  }
  // A constant is kept as if it were frame 0.
  const auto frame = varies ? find_frame(self.index, time) : std::optional<std::size_t>(0);
  if (!frame) return {};
  const Impl::Key key{variable, *frame};
  if (const auto found = self.where.find(key); found != self.where.end()) {
    self.decoded.splice(self.decoded.begin(), self.decoded, found->second);
    return self.decoded.front().values;
  }

  // Make room first; the last buffer that goes serves the new frame. The frame asked for is always kept.
  std::vector<float> values;
  while (!self.decoded.empty() && (self.decoded.size() + 1) * self.frame_bytes() > self.cache_bytes) {
    values = std::move(self.decoded.back().values);
    self.where.erase(self.decoded.back().key);
    self.decoded.pop_back();
  }
  values.resize(static_cast<std::size_t>(self.rect.cells()));
  const ArchiveIndex::Frame& at = self.index.frames[*frame];
  std::vector<std::size_t> start{static_cast<std::size_t>(self.rect.y0),
                                 static_cast<std::size_t>(self.rect.x0)},
      count{static_cast<std::size_t>(self.rect.height()), static_cast<std::size_t>(self.rect.width())};
  if (varies) {
    start.insert(start.begin(), static_cast<std::size_t>(at.position));
    count.insert(count.begin(), 1);
  }
  self.file(varies ? at.file : constant->file).read(variable, start, count, values);
  self.bytes_read += static_cast<std::int64_t>(self.frame_bytes());
  self.decoded.push_front({key, std::move(values)});
  self.where[key] = self.decoded.begin();
  return self.decoded.front().values;
}

std::vector<float> accumulate(ArchiveReader& reader, const Accumulation& rule, Time end) {
  const Time step = reader.index().step;
  if (step <= 0 || rule.window < step || rule.window % step != 0)
    fail(ExitCode::usage,
         "A window of " + std::to_string(rule.window / 60) + " minutes cannot be accumulated",
         "the archive's step is " + std::to_string(step) + " s",
         "Set target.window_hours to a multiple of the step.");
  const Time slots = rule.window / step;
  const double step_hours = static_cast<double>(step) / 3600;
  const auto cells = static_cast<std::size_t>(reader.rect().cells());
  std::vector<double> sum(cells, 0.0);
  std::vector<int> valid(cells, 0);
  for (Time slot = 1; slot <= slots; ++slot) {
    const Time slot_end = end - rule.window + slot * step;
    const std::span<const float> rate =
        reader.read(rule.variable, rule.labels_start ? slot_end - step : slot_end);
    for (std::size_t i = 0; i < rate.size(); ++i)
      if (rate[i] >= 0)
        sum[i] += static_cast<double>(rate[i]) * step_hours, ++valid[i]; // NaN and negative: missing
  }
  std::vector<float> out(cells);
  for (std::size_t i = 0; i < cells; ++i)
    out[i] = 12 * (slots - valid[i]) > slots
                 ? std::numeric_limits<float>::quiet_NaN()
                 : static_cast<float>(sum[i] * static_cast<double>(slots) / static_cast<double>(valid[i]));
  return out;
}

} // namespace pluvia
