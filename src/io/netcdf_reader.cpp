#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include <netcdf.h>

#include "pluvia/core/error.hpp"
#include "pluvia/io/library_lock.hpp"
#include "pluvia/io/netcdf.hpp"

namespace pluvia {

namespace {
bool is_floating(nc_type type) {
  return type == NC_FLOAT || type == NC_DOUBLE;
}

/// What the attributes of a variable say about its stored values.
struct Packing {
  double scale = 1, offset = 0;
  std::vector<double> missing;
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  bool range_is_unpacked = false; ///< the valid range is meant for values after unpacking
  double wrap = 0;                ///< added to negative stored values of an integer that is really unsigned

  double unpack(double stored) const {
    if (wrap != 0 && stored < 0) stored += wrap;
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    if (!std::isfinite(stored)) return nan;
    for (double m : missing)
      if (stored == m) return nan;
    if (!range_is_unpacked && (stored < least || stored > most)) return nan;
    const double value = stored * scale + offset;
    if (range_is_unpacked && (value < least || value > most)) return nan;
    return value;
  }
};

/// netCDF fills what was never written with these, even when no _FillValue says so; bytes have none.
void add_default_fill(nc_type type, std::vector<double>& missing) {
  switch (type) {
  case NC_SHORT:
    missing.push_back(NC_FILL_SHORT);
    break;
  case NC_USHORT:
    missing.push_back(NC_FILL_USHORT);
    break;
  case NC_INT:
    missing.push_back(NC_FILL_INT);
    break;
  case NC_UINT:
    missing.push_back(NC_FILL_UINT);
    break;
  case NC_INT64:
    missing.push_back(static_cast<double>(NC_FILL_INT64));
    break;
  case NC_UINT64:
    missing.push_back(static_cast<double>(NC_FILL_UINT64));
    break;
  case NC_FLOAT:
    missing.push_back(static_cast<double>(NC_FILL_FLOAT));
    break;
  case NC_DOUBLE:
    missing.push_back(NC_FILL_DOUBLE);
    break;
  default:
    break;
  }
}

Packing packing_of(const NcReader& file, int file_id, int id, const std::string& name) {
  nc_type type = NC_NAT;
  nc_inq_vartype(file_id, id, &type);
  Packing p;
  const std::string is_unsigned = file.text(name, "_Unsigned");
  if (is_unsigned == "true" || is_unsigned == "True" || is_unsigned == "TRUE")
    p.wrap = type == NC_BYTE ? 256.0 : type == NC_SHORT ? 65536.0 : type == NC_INT ? 4294967296.0 : 0.0;
  const auto wrapped = [&](double v) { return p.wrap != 0 && v < 0 ? v + p.wrap : v; };

  if (const auto scale = file.numbers(name, "scale_factor"); !scale.empty()) p.scale = scale[0];
  if (const auto offset = file.numbers(name, "add_offset"); !offset.empty()) p.offset = offset[0];
  const auto fill = file.numbers(name, "_FillValue");
  for (double v : fill) p.missing.push_back(wrapped(v));
  if (fill.empty()) add_default_fill(type, p.missing);
  for (double v : file.numbers(name, "missing_value")) p.missing.push_back(wrapped(v));

  // CF: a valid range has the type of the packed data, or else that of the unpacked data.
  const auto bound = [&](const char* attribute, std::size_t at, double& limit) {
    const auto values = file.numbers(name, attribute);
    if (values.size() <= at) return;
    nc_type attribute_type = NC_NAT;
    nc_inq_atttype(file_id, id, attribute, &attribute_type);
    p.range_is_unpacked = is_floating(attribute_type) && !is_floating(type);
    limit = p.range_is_unpacked ? values[at] : wrapped(values[at]);
  };
  bound("valid_min", 0, p.least);
  bound("valid_max", 0, p.most);
  bound("valid_range", 0, p.least);
  bound("valid_range", 1, p.most);
  return p;
}
} // namespace

bool is_netcdf(const std::string& path) {
  char start[8] = {};
  if (std::FILE* file = std::fopen(path.c_str(), "rb")) {
    if (std::fread(start, 1, sizeof start, file) < sizeof start) start[0] = '\0';
    std::fclose(file);
  } else {
    fail(ExitCode::usage, "Cannot open " + path, std::strerror(errno), "Check the name and its permissions.");
  }
  const bool classic = std::memcmp(start, "CDF", 3) == 0 && (start[3] == 1 || start[3] == 2 || start[3] == 5);
  return classic || std::memcmp(start, "\x89HDF\r\n\x1a\n", 8) == 0;
}

NcReader::NcReader(const std::string& path, const std::string& group) : path_(path) {
  // A plain open first: it tells an unreadable file from a damaged one.
  if (std::FILE* probe = std::fopen(path.c_str(), "rb"))
    std::fclose(probe);
  else
    fail(ExitCode::usage, "Cannot open " + path, std::strerror(errno), "Check the name and its permissions.");
  const LibraryGuard guard(library_lock());
  check(nc_open(path.c_str(), NC_NOWRITE, &opened_), "cannot be opened as NetCDF");
  file_ = opened_;
  if (group.empty()) return;
  const int status = nc_inq_grp_ncid(opened_, group.c_str(), &file_);
  if (status != NC_NOERR) nc_close(std::exchange(opened_, -1));
  check(status, "has no group " + group);
}

NcReader::~NcReader() {
  if (opened_ < 0) return;
  const LibraryGuard guard(library_lock());
  nc_close(opened_);
}

NcReader::NcReader(NcReader&& other) noexcept
    : path_(std::move(other.path_)), opened_(std::exchange(other.opened_, -1)), file_(other.file_) {}

NcReader& NcReader::operator=(NcReader&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(opened_, other.opened_);
  std::swap(file_, other.file_);
  return *this;
}

void NcReader::check(int status, const std::string& what) const {
  if (status == NC_NOERR) return;
  fail(ExitCode::data, path_ + " " + what, nc_strerror(status),
       "The file may be truncated or damaged: fetch it again.");
}

int NcReader::variable_id(const std::string& name) const {
  if (name.empty()) return NC_GLOBAL;
  int id = 0;
  check(nc_inq_varid(file_, name.c_str(), &id), "has no variable " + name);
  return id;
}

bool NcReader::has(const std::string& variable) const {
  const LibraryGuard guard(library_lock());
  int id = 0;
  return nc_inq_varid(file_, variable.c_str(), &id) == NC_NOERR;
}

bool NcReader::has_group(const std::string& name) const {
  const LibraryGuard guard(library_lock());
  int id = 0;
  return nc_inq_grp_ncid(file_, name.c_str(), &id) == NC_NOERR;
}

NcVariable NcReader::variable(const std::string& name) const {
  const LibraryGuard guard(library_lock());
  const int id = variable_id(name);
  int rank = 0;
  int dimensions[NC_MAX_VAR_DIMS];
  check(nc_inq_var(file_, id, nullptr, nullptr, &rank, dimensions, nullptr), "cannot describe " + name);
  NcVariable out{name, {}, {}};
  for (int d = 0; d < rank; ++d) {
    char dimension[NC_MAX_NAME + 1];
    std::size_t extent = 0;
    check(nc_inq_dim(file_, dimensions[d], dimension, &extent), "cannot describe " + name);
    out.dimensions.emplace_back(dimension);
    out.extents.push_back(extent);
  }
  return out;
}

std::vector<NcVariable> NcReader::variables() const {
  const LibraryGuard guard(library_lock());
  int count = 0;
  check(nc_inq_nvars(file_, &count), "cannot be listed");
  std::vector<NcVariable> out;
  for (int id = 0; id < count; ++id) {
    char name[NC_MAX_NAME + 1];
    check(nc_inq_varname(file_, id, name), "cannot be listed");
    out.push_back(variable(name));
  }
  return out;
}

std::vector<std::string> NcReader::attributes(const std::string& variable) const {
  const LibraryGuard guard(library_lock());
  const int id = variable_id(variable);
  int count = 0;
  check(nc_inq_varnatts(file_, id, &count), "cannot be listed");
  std::vector<std::string> out;
  for (int a = 0; a < count; ++a) {
    char name[NC_MAX_NAME + 1];
    check(nc_inq_attname(file_, id, a, name), "cannot be listed");
    out.emplace_back(name);
  }
  return out;
}

std::string NcReader::text(const std::string& variable, const std::string& attribute) const {
  const LibraryGuard guard(library_lock());
  const int id = variable_id(variable);
  nc_type type = NC_NAT;
  std::size_t length = 0;
  if (nc_inq_att(file_, id, attribute.c_str(), &type, &length) != NC_NOERR || length == 0) return {};
  if (type == NC_STRING) {
    std::vector<char*> pieces(length, nullptr);
    check(nc_get_att_string(file_, id, attribute.c_str(), pieces.data()),
          "cannot read attribute " + attribute);
    const std::string out = pieces[0] != nullptr ? pieces[0] : "";
    nc_free_string(length, pieces.data());
    return out;
  }
  if (type != NC_CHAR) return {};
  std::string out(length, '\0');
  check(nc_get_att_text(file_, id, attribute.c_str(), out.data()), "cannot read attribute " + attribute);
  while (!out.empty() && out.back() == '\0') out.pop_back(); // some writers store the C terminator
  return out;
}

std::vector<double> NcReader::numbers(const std::string& variable, const std::string& attribute) const {
  const LibraryGuard guard(library_lock());
  const int id = variable_id(variable);
  nc_type type = NC_NAT;
  std::size_t length = 0;
  if (nc_inq_att(file_, id, attribute.c_str(), &type, &length) != NC_NOERR || type == NC_CHAR ||
      type == NC_STRING)
    return {};
  std::vector<double> out(length);
  check(nc_get_att_double(file_, id, attribute.c_str(), out.data()), "cannot read attribute " + attribute);
  return out;
}

void NcReader::read_doubles(int id, const std::vector<std::size_t>& start,
                            const std::vector<std::size_t>& count, std::span<double> out) const {
  check(nc_get_vara_double(file_, id, start.data(), count.data(), out.data()), "cannot be read");
}

std::vector<double> NcReader::values(const std::string& name) const {
  const LibraryGuard guard(library_lock());
  const NcVariable description = variable(name);
  std::size_t size = 1;
  for (std::size_t extent : description.extents) size *= extent;
  std::vector<double> out(size);
  if (size == 0) return out;
  const int id = variable_id(name);
  read_doubles(id, std::vector<std::size_t>(description.extents.size(), 0), description.extents, out);
  const Packing packing = packing_of(*this, file_, id, name);
  for (double& v : out) v = packing.unpack(v);
  return out;
}

void NcReader::read(const std::string& name, const std::vector<std::size_t>& start,
                    const std::vector<std::size_t>& count, std::span<float> out) const {
  const LibraryGuard guard(library_lock());
  const int id = variable_id(name);
  const Packing packing = packing_of(*this, file_, id, name);
  nc_type type = NC_NAT;
  nc_inq_vartype(file_, id, &type);
  if (type == NC_FLOAT) {
    check(nc_get_vara_float(file_, id, start.data(), count.data(), out.data()),
          "cannot be read (" + name + ")");
    for (float& v : out) v = static_cast<float>(packing.unpack(static_cast<double>(v)));
    return;
  }
  std::vector<double> stored(out.size());
  read_doubles(id, start, count, stored);
  std::transform(stored.begin(), stored.end(), out.begin(),
                 [&](double v) { return static_cast<float>(packing.unpack(v)); });
}

std::vector<double> read_decimals(const NcReader& file, const std::string& variable) {
  std::vector<double> values = file.values(variable);
  for (double& value : values) {
    const auto single = static_cast<float>(value);
    if (std::isnan(value) || static_cast<double>(single) != value) continue;
    char text[64];
    const char* end = std::to_chars(text, text + sizeof text, single).ptr;
    std::from_chars(text, end, value);
  }
  return values;
}

} // namespace pluvia
