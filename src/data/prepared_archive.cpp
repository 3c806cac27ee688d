#include "pluvia/data/prepared_archive.hpp"

#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/io/cf_grid.hpp"

namespace pluvia {

namespace {

constexpr const char* maker = "pluvia prepare";

const char* word(Quantity quantity) {
  return quantity == Quantity::precipitation_rate ? "precipitation_rate" : "brightness_temperature";
}

/// The table that says when exactly a channel was measured; missing where an entry has it not.
std::string table_of(const std::string& channel) {
  return channel + "_time";
}

/// Every variable with what the CF conventions ask for. Collective.
void define(NcWriter& file, const CellGrid& grid, const Channels& channels, Time step) {
  file.set_text("", "Conventions", "CF-1.11, ACDD-1.3");
  file.set_text("", "title", "Satellite images and precipitation gathered in cells");
  file.set_text("", "summary",
                "Area means and coldest pixels of satellite images and mean precipitation rates on a regular "
                "grid and at regular times. Rain at time t is the mean over (t - frame_minutes, t]. Packing "
                "rounds by at most 0.005 K and 0.005 mm h-1. Cells with less than half of their pixels valid "
                "are missing.");
  file.set_text("", "source", fmt::format("{} {}", maker, PLUVIA_VERSION));
  file.set_numbers("", "frame_minutes", NcType::f64, {static_cast<double>(step) / 60});
  const Grid coordinates = grid.grid();
  write_grid(file, coordinates);
  write_time_axis(file, NcWriter::unlimited, "end of the interval of precipitation, moment of the images");
  file.set_text("time", "bounds", "time_bnds");
  file.add_table("time_bnds", NcType::f64, {"time", "bnds"});

  const auto field = [&](const std::string& name, double offset, const char* standard_name,
                         const char* long_name, const char* units, const char* cell_methods) {
    file.add_packed_field(name, {"time", "lat", "lon"}, 0.01, offset);
    file.set_text(name, "standard_name", standard_name);
    file.set_text(name, "long_name", long_name);
    file.set_text(name, "units", units);
    file.set_text(name, "cell_methods", cell_methods);
    set_grid_attributes(file, coordinates, name);
  };
  for (const auto& [channel, quantity] : channels) {
    const std::vector<std::string> names = variables_of(channel, quantity);
    const std::string table = table_of(channel);
    file.add_table(table, NcType::f64, {"time"});
    if (quantity == Quantity::precipitation_rate) {
      field(names[0], 0, "lwe_precipitation_rate",
            "mean precipitation rate over the interval that ends at time", "mm h-1", "area: mean time: mean");
      file.set_text(table, "long_name", "end of the interval as its file names it");
    } else {
      field(names[0], 250, "toa_brightness_temperature",
            "mean brightness temperature of the pixels in the cell", "K", "area: mean time: point");
      field(names[1], 250, "toa_brightness_temperature",
            "brightness temperature of the coldest pixel in the cell", "K", "area: minimum time: point");
      file.set_text(table, "long_name", "time of the image as its file names it");
    }
    file.set_numbers(table, "_FillValue", NcType::f64, {static_cast<double>(NcWriter::fill)});
    file.set_text(table, "units", "seconds since 1970-01-01 00:00:00");
    file.set_text(table, "calendar", "standard");
    file.set_text(table, "quantity", word(quantity));
  }
}

} // namespace

std::vector<std::string> variables_of(const std::string& channel, Quantity quantity) {
  if (quantity == Quantity::precipitation_rate) return {channel};
  return {channel + "_mean", channel + "_min"};
}

// ---- Reading ----------------------------------------------------------------------------------------------

PreparedArchive::PreparedArchive(const std::string& path, const CellGrid& grid, Time step)
    : file_(path), grid_(grid) {
  const auto refuse = [&](const std::string& why) {
    fail(ExitCode::usage, path + " cannot be gone on with", why,
         "Give another prepare.output, or remove it.");
  };
  if (!file_.text("", "source").starts_with(maker)) refuse(fmt::format("`{}` did not write it", maker));
  const std::vector<double> minutes = file_.numbers("", "frame_minutes");
  if (minutes.size() != 1 || std::llround(minutes[0] * 60) != step)
    refuse(fmt::format("its frames are {} minutes apart", fmt::join(minutes, ", ")));
  for (const NcVariable& variable : file_.variables()) {
    const std::string quantity = file_.text(variable.name, "quantity");
    const std::string channel = variable.name.substr(0, variable.name.rfind('_'));
    for (const Quantity q : {Quantity::brightness_temperature, Quantity::precipitation_rate})
      if (quantity == word(q)) channels_[channel] = q;
  }
  const Grid wanted = grid.grid();
  for (const auto& [channel, quantity] : channels_) {
    const Grid found = read_grid(file_, file_.variable(variables_of(channel, quantity).front()));
    if (found.y != wanted.y || found.x != wanted.x)
      refuse(fmt::format("its {} x {} cells are others", found.ny(), found.nx()));
  }
  const std::vector<Time> times = read_times(file_, "time");
  for (std::size_t i = 0; i < times.size(); ++i) positions_[times[i]] = i;
  for (const auto& [channel, quantity] : channels_) {
    const std::vector<double> exact = file_.values(table_of(channel));
    for (std::size_t i = 0; i < times.size(); ++i)
      if (!std::isnan(exact[i])) exact_times_[times[i]][channel] = exact[i];
  }
}

std::vector<Time> PreparedArchive::times() const {
  std::vector<Time> out;
  for (const auto& [time, position] : positions_) out.push_back(time);
  return out;
}

std::map<Time, std::set<std::string>> PreparedArchive::present() const {
  std::map<Time, std::set<std::string>> out;
  for (const auto& [time, exact] : exact_times_)
    for (const auto& [channel, t] : exact) out[time].insert(channel);
  return out;
}

ArchiveEntry PreparedArchive::read(Time time) const {
  ArchiveEntry out;
  const auto exact = exact_times_.find(time);
  if (exact == exact_times_.end()) return out;
  out.exact_times = exact->second;
  for (const auto& [channel, t] : out.exact_times)
    for (const std::string& name : variables_of(channel, channels_.at(channel))) {
      std::vector<float>& values = out.fields[name];
      values.resize(grid_.cells());
      file_.read(name, {positions_.at(time), 0, 0},
                 {1, static_cast<std::size_t>(grid_.ny), static_cast<std::size_t>(grid_.nx)}, values);
    }
  return out;
}

// ---- Writing ----------------------------------------------------------------------------------------------

PreparedArchiveWriter::PreparedArchiveWriter(const Communicator& comm, const std::string& path,
                                             const CellGrid& grid, const Channels& channels, Time step)
    : file_(comm, path), grid_(grid), channels_(channels), step_(step),
      no_field_(grid.cells(), std::numeric_limits<float>::quiet_NaN()) {
  define(file_, grid, channels, step);
}

void PreparedArchiveWriter::append(const std::vector<Time>& times, const ArchiveEntry& mine) {
  const Communicator& comm = file_.communicator();
  const std::vector<std::string> told = comm.all_gather(nlohmann::json(mine.exact_times).dump());
  const std::size_t before = times_.size();
  std::size_t my_position = 0;
  for (std::size_t r = 0; r < times.size(); ++r) {
    auto exact = nlohmann::json::parse(told[r]).get<std::map<std::string, double>>();
    if (exact.empty()) continue;
    if (r == static_cast<std::size_t>(comm.rank())) my_position = times_.size();
    times_.push_back(times[r]);
    exact_times_.push_back(std::move(exact));
  }
  if (times_.size() == before) return;
  const bool empty = mine.exact_times.empty();
  for (const auto& [channel, quantity] : channels_)
    for (const std::string& name : variables_of(channel, quantity)) {
      const auto made = mine.fields.find(name);
      const std::span<const float> values = made == mine.fields.end() ? no_field_ : made->second;
      file_.write_tile(name, {my_position}, {1}, empty ? Rect{} : Rect{0, grid_.ny, 0, grid_.nx},
                       empty ? values.first(0) : values);
    }
}

void PreparedArchiveWriter::commit() {
  const std::size_t n = times_.size();
  std::vector<double> times, bounds;
  for (const Time t : times_) {
    times.push_back(static_cast<double>(t));
    bounds.insert(bounds.end(), {static_cast<double>(t - step_), static_cast<double>(t)});
  }
  file_.write_table("time", {0}, {n}, times);
  file_.write_table("time_bnds", {0, 0}, {n, 2}, bounds);
  for (const auto& [channel, quantity] : channels_) {
    std::vector<double> exact;
    for (const auto& at : exact_times_)
      exact.push_back(at.contains(channel) ? at.at(channel) : static_cast<double>(NcWriter::fill));
    file_.write_table(table_of(channel), {0}, {n}, exact);
  }
  file_.commit();
}

} // namespace pluvia
