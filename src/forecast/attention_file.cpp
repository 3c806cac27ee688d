#include "pluvia/forecast/attention_file.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"

namespace pluvia {

namespace {

/// Names of a kind and level in the file.
const char* name_of(AttentionKind kind) {
  constexpr std::array names{"skip", "spatial", "temporal", "joint"};
  return names[static_cast<std::size_t>(kind)];
}
const char* meaning_of(AttentionKind kind) {
  constexpr std::array meanings{"lead-time query over input frames and cells around",
                                "last frame over the cells around", "last frame over the input frames",
                                "last frame over input frames and cells around"};
  return meanings[static_cast<std::size_t>(kind)];
}

/// The extent of keys along one axis of the grid: for each point the centres and edges of cells of a level.
struct KeyAxis {
  std::vector<double> centres, edges; ///< [points x length], [points x length x 2]; NaN past a smaller window
};

KeyAxis key_axis(const std::vector<Span>& keys, Index length, int level, const std::vector<double>& edges) {
  const auto cells = static_cast<Index>(edges.size() / 2);
  const Index side = Index{1} << level, extent = (cells + side - 1) / side;
  const double turn = edges.back() - edges.front(); // an axis that closes goes on beyond its ends
  KeyAxis out;
  for (const Span& span : keys)
    for (Index i = span.from; i < span.from + length; ++i) {
      const Index turns = (i >= 0 ? i : i - extent + 1) / extent, first = (i - turns * extent) * side;
      const Index last = std::min(first + side, cells) - 1;
      const double shift = i < span.to ? turn * static_cast<double>(turns) : std::nan("");
      const double low = edges[static_cast<std::size_t>(2 * first)] + shift;
      const double high = edges[static_cast<std::size_t>(2 * last + 1)] + shift;
      out.centres.push_back((low + high) / 2);
      out.edges.insert(out.edges.end(), {low, high});
    }
  return out;
}

void add_numbers(NcWriter& file, const std::string& name, NcType type,
                 const std::vector<std::string>& dimensions, const std::string& meaning,
                 const std::string& units) {
  file.add_table(name, type, dimensions);
  file.set_numbers(name, "_FillValue", type, {std::nan("")});
  file.set_text(name, "long_name", meaning);
  file.set_text(name, "units", units);
}

/// Coordinates NAME and NAME_bnds of the keys on (point, dimension).
void write_key_axis(NcWriter& file, const std::string& name, const std::string& dimension,
                    const std::string& standard_name, const std::string& units, const KeyAxis& axis) {
  add_numbers(file, name, NcType::f64, {"point", dimension}, "centre of the cells looked at", units);
  file.set_text(name, "standard_name", standard_name);
  file.set_text(name, "bounds", name + "_bnds");
  file.add_table(name + "_bnds", NcType::f64, {"point", dimension, "bnds"});
  file.write_table(name, axis.centres);
  file.write_table(name + "_bnds", axis.edges);
}

/// The weights as they go into the file: NaN where a window ends before the largest does, and their means
/// over heads.
struct Weights {
  std::vector<double> by_head, mean;
};
Weights file_weights(const AttentionMap& map) {
  Weights out;
  const auto plane = static_cast<std::size_t>(map.frames * map.height * map.width);
  const auto heads = static_cast<std::size_t>(map.heads);
  out.by_head.assign(map.weights.begin(), map.weights.end());
  for (std::size_t i = 0; i < out.by_head.size(); ++i) {
    const auto x = static_cast<Index>(i) % map.width, y = static_cast<Index>(i) / map.width % map.height;
    const std::size_t point = i / (static_cast<std::size_t>(map.queries) * heads * plane);
    const Span &rows = map.rows[point], &columns = map.columns[point];
    if (rows.from + y >= rows.to || columns.from + x >= columns.to) out.by_head[i] = std::nan("");
  }
  out.mean.assign(out.by_head.size() / heads, 0.0);
  for (std::size_t i = 0; i < out.by_head.size(); ++i)
    out.mean[i / (heads * plane) * plane + i % plane] += out.by_head[i] / static_cast<double>(heads);
  return out;
}

void write_map(NcWriter& file, const Grid& grid, const AttentionMap& map, int level) {
  const std::string kind = name_of(map.kind), suffix = fmt::format("_level{}", level);
  const bool looks_around = map.kind != AttentionKind::temporal;
  const std::string head = kind + "_head" + suffix, row = kind + "_row" + suffix,
                    column = kind + "_column" + suffix;
  file.add_dimension(head, static_cast<std::size_t>(map.heads));
  std::vector<std::string> before{"point"}, after;
  if (map.kind == AttentionKind::skip) before.emplace_back("time");
  if (map.kind != AttentionKind::spatial) after.emplace_back("frame");
  std::string coordinates = "lat lon";
  if (looks_around) {
    file.add_dimension(row, static_cast<std::size_t>(map.height));
    file.add_dimension(column, static_cast<std::size_t>(map.width));
    after.insert(after.end(), {row, column});
    const AxisNames names = standard_names(grid);
    const std::string y = fmt::format("{}_{}{}", kind, grid.y_name, suffix),
                      x = fmt::format("{}_{}{}", kind, grid.x_name, suffix);
    write_key_axis(file, y, row, names.y, grid.y_units,
                   key_axis(map.rows, map.height, map.level, row_edges(grid)));
    write_key_axis(file, x, column, names.x, grid.x_units,
                   key_axis(map.columns, map.width, map.level, column_edges(grid)));
    coordinates += " " + y + " " + x;
  }
  const auto write = [&](const std::string& name, const std::vector<std::string>& middle,
                         const std::string& meaning, const std::vector<double>& values) {
    std::vector<std::string> dimensions = before;
    dimensions.insert(dimensions.end(), middle.begin(), middle.end());
    dimensions.insert(dimensions.end(), after.begin(), after.end());
    add_numbers(file, name, NcType::f32, dimensions, meaning, "1");
    file.set_text(name, "coordinates", coordinates);
    file.set_text(name, "grid_mapping", "crs");
    file.set_numbers(name, "cell_width", NcType::i32, {static_cast<double>(Index{1} << map.level)});
    file.write_table(name, values);
  };
  const Weights weights = file_weights(map);
  const std::string meaning = std::string("attention weights: ") + meaning_of(map.kind);
  write(kind + "_weight" + suffix, {}, meaning + ", mean over heads", weights.mean);
  write(kind + "_weight_by_head" + suffix, {head}, meaning, weights.by_head);
}

void write_points(NcWriter& file, const ProductHeader& header, const AttentionRecord& record) {
  const auto write = [&](const std::string& name, const std::string& standard_name,
                         const std::string& meaning, const std::string& units,
                         const std::vector<double>& values) {
    add_numbers(file, name, NcType::f64, {"point"}, meaning, units);
    file.set_text(name, "standard_name", standard_name);
    file.write_table(name, values);
  };
  std::vector<double> lat, lon, y, x;
  for (const LatLon& point : record.points) lat.push_back(point.latitude), lon.push_back(point.longitude);
  for (const AttentionProbe::Cell& cell : record.probe.cells) {
    y.push_back(header.grid.y[static_cast<std::size_t>(cell.y)]);
    x.push_back(header.grid.x[static_cast<std::size_t>(cell.x)]);
  }
  const AxisNames names = standard_names(header.grid);
  write("lat", "latitude", "latitude asked for", "degrees_north", lat);
  write("lon", "longitude", "longitude asked for", "degrees_east", lon);
  write("cell_" + header.grid.y_name, names.y, "centre of the forecast's cell", header.grid.y_units, y);
  write("cell_" + header.grid.x_name, names.x, "centre of the forecast's cell", header.grid.x_units, x);
  const std::string p = "probability_of_precipitation";
  add_numbers(file, p, NcType::f32, {"point", "time", "threshold"},
              "probability of precipitation above threshold in the forecast's cell", "1");
  file.set_text(p, "coordinates", "lat lon forecast_period forecast_reference_time");
  file.write_table(p, std::vector<double>(record.probability.begin(), record.probability.end()));
}

void write_frames(NcWriter& file, const ProductHeader& header, Time init) {
  file.add_dimension("frame", static_cast<std::size_t>(header.history));
  file.add_table("frame", NcType::f64, {"frame"});
  file.set_text("frame", "long_name", "time of the input frame");
  file.set_text("frame", "units", "seconds since 1970-01-01 00:00:00");
  file.set_text("frame", "calendar", "standard");
  std::vector<double> times;
  for (int back = header.history - 1; back >= 0; --back)
    times.push_back(static_cast<double>(init) - back * std::round(header.frame_minutes * 60));
  file.write_table("frame", times);
}

} // namespace

std::string attention_name(Time init, std::size_t member, std::size_t members) {
  return "pluvia_attention_i" + format_time_compact(init) +
         (members > 1 ? fmt::format("_member{}.nc", member + 1) : ".nc");
}

void write_attention(const Communicator& comm, const std::string& path, const ProductHeader& header,
                     Time init, const AttentionRecord& record) {
  NcWriter file(comm, path);
  file.add_dimension("bnds", 2);
  file.add_dimension("point", record.points.size());
  add_forecast_axes(file, header);
  set_provenance(file, header, init);
  file.set_text("", "title", "Where and when the network of a Pluvia forecast looked");
  file.set_text("", "id", std::filesystem::path(path).stem().string());
  write_grid_mapping(file, header.grid);
  write_forecast_axes(file, header, init);
  write_frames(file, header, init);
  write_points(file, header, record);
  for (const AttentionMap& map : record.probe.maps)
    write_map(file, header.grid, map, map.level - record.first_level);
  for (const AttentionGate& gate : record.probe.gates) {
    const std::string name = fmt::format("spatial_share_level{}", gate.level - record.first_level);
    add_numbers(file, name, NcType::f32, {"point"},
                "share of spatial attention in the gate, the rest being temporal; mean over channels", "1");
    file.set_text(name, "coordinates", "lat lon");
    file.write_table(name, std::vector<double>(gate.spatial_share.begin(), gate.spatial_share.end()));
  }
  file.commit();
}

} // namespace pluvia
