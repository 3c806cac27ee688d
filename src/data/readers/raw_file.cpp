#include "pluvia/data/readers/raw_file.hpp"

#include "pluvia/core/error.hpp"
#include "pluvia/data/readers/imerg.hpp"
#include "pluvia/data/readers/mergir.hpp"

namespace pluvia {

namespace {
struct Format {
  const char* name;
  std::unique_ptr<RawFile> (*open)(const std::string& path); ///< nothing when the file is of another format
};
/// Every format that is read; a new one is a row here.
constexpr Format formats[] = {
    {"GPM MERGIR", open_mergir},
    {"IMERG half-hourly NetCDF", open_imerg},
};
} // namespace

std::unique_ptr<RawFile> open_raw_file(const std::string& path) {
  std::string known;
  for (const Format& format : formats) {
    if (auto file = format.open(path)) return file;
    known += (known.empty() ? "" : ", ") + std::string(format.name);
  }
  fail(ExitCode::data, path + " is of no known format", "these are read: " + known);
}

} // namespace pluvia
