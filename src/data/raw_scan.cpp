#include "pluvia/data/raw_scan.hpp"

#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

using nlohmann::json;

/// What one rank found in one file, to be told to the others.
json scan(const std::string& path, const CellGrid& grid) {
  json out{{"frames", json::array()}};
  try {
    const std::unique_ptr<RawFile> file = open_raw_file(path);
    const Geolocation where = file->locate(grid.box(), 0);
    for (const RawFrame& f : file->frames()) {
      if (f.quantity == Quantity::brightness_temperature && !where.window.empty() &&
          std::max(where.pixel_height, where.pixel_width) > grid.cell_degrees * (1 + 1e-6)) {
        out["skip"] = fmt::format("files with pixels larger than a cell ({:.3g} degrees)",
                                  std::max(where.pixel_height, where.pixel_width));
        return out;
      }
      out["frames"].push_back({f.channel, static_cast<int>(f.quantity), f.begin, f.end, f.position});
    }
    if (where.window.empty())
      out["skip"] = "files that lie outside the grid";
    else if (out["frames"].empty())
      out["skip"] = "files without a frame";
  } catch (const Error& error) {
    out["damage"] = error.what();
  }
  return out;
}

} // namespace

RawScan scan_raw_files(const Communicator& comm, const std::vector<std::string>& files, const CellGrid& grid,
                       const Log& log) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  json mine = json::array();
  together(comm, [&] {
    Progress progress(log, "scan", static_cast<std::int64_t>(files.size()));
    for (std::size_t i = static_cast<std::size_t>(comm.rank()); i < files.size(); i += ranks) {
      mine.push_back(scan(files[i], grid));
      progress.update(static_cast<std::int64_t>(std::min(i + ranks, files.size())), files[i]);
    }
  });
  const std::vector<std::uint8_t> bytes = json::to_cbor(mine);
  std::vector<json> all;
  for (const std::string& text : comm.all_gather({bytes.begin(), bytes.end()}))
    all.push_back(json::from_cbor(text));

  RawScan out;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const json& found = all[i % ranks][i / ranks];
    if (found.contains("damage")) {
      const std::string problem = found["damage"];
      log.warn("skipped: " + problem);
      out.skips.add("files that cannot be read", problem);
    } else if (found.contains("skip")) {
      out.skips.add(found["skip"], files[i]);
    } else {
      for (const json& f : found["frames"])
        out.frames.push_back({files[i],
                              {f[0], static_cast<Quantity>(f[1].get<int>()), f[2].get<Time>(),
                               f[3].get<Time>(), f[4].get<long>()}});
    }
  }
  return out;
}

} // namespace pluvia
