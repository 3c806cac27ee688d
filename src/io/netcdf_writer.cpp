#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include <mpi.h>
#include <netcdf.h>
#include <netcdf_par.h>

#include "pluvia/core/error.hpp"
#include "pluvia/io/durable.hpp"
#include "pluvia/io/library_lock.hpp"
#include "pluvia/io/netcdf.hpp"

namespace pluvia {

namespace {
nc_type raw(NcType type) {
  switch (type) {
  case NcType::i8:
    return NC_BYTE;
  case NcType::u8:
    return NC_UBYTE;
  case NcType::i16:
    return NC_SHORT;
  case NcType::i32:
    return NC_INT;
  case NcType::f32:
    return NC_FLOAT;
  default:
    return NC_DOUBLE;
  }
}

constexpr double packed_fill = -32768; ///< stored for NaN

/// The side of equal chunks of at most chunk_cells, so that little of the last one lies outside the grid.
std::size_t chunk_side(std::size_t extent) {
  const auto most = static_cast<std::size_t>(NcWriter::chunk_cells);
  const std::size_t chunks = std::max<std::size_t>(1, (extent + most - 1) / most);
  return std::max<std::size_t>(1, (extent + chunks - 1) / chunks);
}
/// Cells of a write of `count` leading slices of whole fields.
std::size_t field_cells(int file, int id, const std::vector<std::size_t>& count) {
  int dimensions[NC_MAX_VAR_DIMS];
  if (nc_inq_vardimid(file, id, dimensions) != NC_NOERR) return 0;
  std::size_t cells = 1;
  for (std::size_t slices : count) cells *= slices;
  for (std::size_t d = count.size(); d < count.size() + 2; ++d) {
    std::size_t extent = 0;
    nc_inq_dimlen(file, dimensions[d], &extent);
    cells *= extent;
  }
  return cells;
}
} // namespace

/// Every call is agreed on, so that no rank goes on into the next collective after another one failed.
template <class Body> void NcWriter::on_all(const std::string& what, Body&& body) {
  together(comm_, [&] {
    const LibraryGuard guard(library_lock());
    const int status = body();
    if (status != NC_NOERR)
      fail(ExitCode::failed, "Cannot write " + path_, what + ": " + nc_strerror(status),
           "Check the space and the permissions of its folder.");
  });
}

NcWriter::NcWriter(const Communicator& comm, const std::string& path)
    : comm_(comm), path_(path), part_(path + ".part") {
  together(comm_, [&] {
    if (comm_.rank() == 0) prepare_part(path_, part_);
  });
  try {
    ask_room(0);
    on_all("create", [&] {
      return nc_create_par(part_.c_str(), NC_NETCDF4 | NC_CLOBBER, comm_.raw(), MPI_INFO_NULL, &file_);
    });
  } catch (...) {
    close();
    throw;
  }
}

NcWriter::~NcWriter() {
  close();
}

void NcWriter::close() {
  if (file_ >= 0) {
    const LibraryGuard guard(library_lock());
    nc_abort(std::exchange(file_, -1)); // unlike nc_close it does not first create what was only defined
  }
  if (!part_.empty() && comm_.rank() == 0) std::remove(part_.c_str());
  part_.clear();
}

int NcWriter::variable_id(const std::string& name) const {
  if (name.empty()) return NC_GLOBAL;
  int id = 0;
  if (nc_inq_varid(file_, name.c_str(), &id) != NC_NOERR)
    fail(ExitCode::failed, "Cannot write " + path_, "no variable " + name + " was added");
  return id;
}

void NcWriter::add_dimension(const std::string& name, std::size_t extent) {
  on_all("dimension " + name, [&] {
    int id = 0;
    return nc_def_dim(file_, name.c_str(), extent == unlimited ? NC_UNLIMITED : extent, &id);
  });
}

int NcWriter::define(const std::string& name, NcType type, const std::vector<std::string>& dimensions) {
  std::vector<int> ids(dimensions.size());
  for (std::size_t d = 0; d < ids.size(); ++d)
    if (const int status = nc_inq_dimid(file_, dimensions[d].c_str(), &ids[d])) return status;
  int id = 0;
  return nc_def_var(file_, name.c_str(), raw(type), static_cast<int>(ids.size()), ids.data(), &id);
}

void NcWriter::add_table(const std::string& name, NcType type, const std::vector<std::string>& dimensions) {
  on_all("variable " + name, [&] { return define(name, type, dimensions); });
}

void NcWriter::add_field(const std::string& name, NcType type, const std::vector<std::string>& dimensions) {
  on_all("field " + name, [&] {
    if (const int status = define(name, type, dimensions)) return status;
    const int id = variable_id(name);
    std::vector<std::size_t> chunks(dimensions.size(), 1);
    for (std::size_t d = dimensions.size() - 2; d < dimensions.size(); ++d) {
      int dimension = 0;
      std::size_t extent = 0;
      if (const int status = nc_inq_dimid(file_, dimensions[d].c_str(), &dimension)) return status;
      if (const int status = nc_inq_dimlen(file_, dimension, &extent)) return status;
      chunks[d] = chunk_side(extent);
    }
    if (const int status = nc_def_var_chunking(file_, id, NC_CHUNKED, chunks.data())) return status;
    if (const int status = nc_def_var_deflate(file_, id, NC_SHUFFLE, 1, 1)) return status;
    return type == NcType::f32 ? nc_def_var_fill(file_, id, NC_FILL, &fill) : NC_NOERR;
  });
}

void NcWriter::add_packed_field(const std::string& name, const std::vector<std::string>& dimensions,
                                double scale, double offset) {
  add_field(name, NcType::i16, dimensions);
  on_all("fill value of " + name, [&] {
    const auto stored = static_cast<short>(packed_fill);
    return nc_def_var_fill(file_, variable_id(name), NC_FILL, &stored);
  });
  set_numbers(name, "scale_factor", NcType::f64, {scale});
  set_numbers(name, "add_offset", NcType::f64, {offset});
  packed_[name] = {scale, offset};
}

void NcWriter::set_text(const std::string& variable, const std::string& attribute, const std::string& value) {
  on_all("attribute " + attribute, [&] {
    return nc_put_att_text(file_, variable_id(variable), attribute.c_str(), value.size(), value.data());
  });
}

void NcWriter::set_numbers(const std::string& variable, const std::string& attribute, NcType type,
                           const std::vector<double>& values) {
  on_all("attribute " + attribute, [&] {
    return nc_put_att_double(file_, variable_id(variable), attribute.c_str(), raw(type), values.size(),
                             values.data());
  });
}

void NcWriter::write_table(const std::string& name, std::span<const double> values) {
  std::vector<std::size_t> count;
  on_all("extents of " + name, [&] {
    int dimensions[NC_MAX_VAR_DIMS], rank = 0;
    const int id = variable_id(name);
    if (const int status = nc_inq_varndims(file_, id, &rank)) return status;
    if (const int status = nc_inq_vardimid(file_, id, dimensions)) return status;
    count.resize(static_cast<std::size_t>(rank));
    for (std::size_t d = 0; d < count.size(); ++d)
      if (const int status = nc_inq_dimlen(file_, dimensions[d], &count[d])) return status;
    return NC_NOERR;
  });
  write_table(name, std::vector<std::size_t>(count.size(), 0), count, values);
}

void NcWriter::ask_room(std::size_t bytes) const {
  constexpr std::size_t surroundings = std::size_t{1} << 20; // attributes, tables of chunks
  together(comm_, [&] {
    if (comm_.rank() == 0) require_room(part_, bytes + surroundings);
  });
}

int NcWriter::prepare_write(const std::string& name, int access, std::size_t bytes) {
  ask_room(bytes);
  int id = 0;
  on_all("variable " + name, [&] {
    id = variable_id(name);
    // Collective, and therefore not left to the first write, which may be one rank's alone.
    const int status = nc_enddef(file_);
    if (status != NC_NOERR && status != NC_ENOTINDEFINE) return status;
    return nc_var_par_access(file_, id, access);
  });
  return id;
}

void NcWriter::write_table(const std::string& name, const std::vector<std::size_t>& start,
                           const std::vector<std::size_t>& count, std::span<const double> values) {
  // A scalar has no empty selection for the other ranks: rank 0 writes it alone.
  const int id = prepare_write(name, start.empty() ? NC_INDEPENDENT : NC_COLLECTIVE, values.size_bytes());
  on_all("values of " + name, [&] {
    if (start.empty()) return comm_.rank() == 0 ? nc_put_var_double(file_, id, values.data()) : NC_NOERR;
    const std::vector<std::size_t> mine =
        comm_.rank() == 0 ? count : std::vector<std::size_t>(count.size(), 0);
    return nc_put_vara_double(file_, id, start.data(), mine.data(), values.data());
  });
}

template <class T, class Put>
void NcWriter::put_tile(const std::string& name, const std::vector<std::size_t>& start,
                        const std::vector<std::size_t>& count, const Rect& tile, std::span<const T> values,
                        Put put) {
  std::vector<std::size_t> slices = count; // of all ranks, which may share out the outermost
  if (!count.empty()) {
    std::array<std::int64_t, 2> ends{-static_cast<std::int64_t>(start[0]),
                                     static_cast<std::int64_t>(start[0] + count[0])};
    comm_.all_reduce(std::span<std::int64_t>(ends), Reduce::max);
    slices[0] = static_cast<std::size_t>(ends[0] + ends[1]);
  }
  std::size_t bytes = 0;
  on_all("extents of " + name, [&] {
    bytes = field_cells(file_, variable_id(name), slices) * sizeof(T);
    return NC_NOERR;
  });
  const int id = prepare_write(name, NC_COLLECTIVE, bytes);
  on_all("values of " + name, [&] {
    std::vector<std::size_t> from = start, size = count;
    from.push_back(static_cast<std::size_t>(tile.y0));
    from.push_back(static_cast<std::size_t>(tile.x0));
    size.push_back(static_cast<std::size_t>(tile.empty() ? 0 : tile.height()));
    size.push_back(static_cast<std::size_t>(tile.empty() ? 0 : tile.width()));
    return put(file_, id, from.data(), size.data(), values.data());
  });
}

void NcWriter::write_tile(const std::string& name, const std::vector<std::size_t>& start,
                          const std::vector<std::size_t>& count, const Rect& tile,
                          std::span<const float> values) {
  std::vector<float> stored(values.begin(), values.end());
  if (const auto found = packed_.find(name); found == packed_.end()) {
    for (float& v : stored)
      if (std::isnan(v)) v = fill;
  } else {
    together(comm_, [&] {
      for (float& v : stored) {
        const double whole =
            std::nearbyint((static_cast<double>(v) - found->second.offset) / found->second.scale);
        if (!std::isnan(v) && !(whole > packed_fill && whole <= 32767))
          fail(ExitCode::failed, "Cannot write " + path_,
               std::to_string(v) + " does not fit into the packed field " + name);
        v = static_cast<float>(std::isnan(v) ? packed_fill : whole);
      }
    });
  }
  put_tile<float>(name, start, count, tile, stored, nc_put_vara_float);
}

void NcWriter::write_tile(const std::string& name, const std::vector<std::size_t>& start,
                          const std::vector<std::size_t>& count, const Rect& tile,
                          std::span<const std::uint8_t> values) {
  put_tile<std::uint8_t>(name, start, count, tile, values, nc_put_vara_uchar);
}

void NcWriter::commit() {
  on_all("close", [&] { return nc_close(std::exchange(file_, -1)); });
  together(comm_, [&] {
    if (comm_.rank() == 0) publish(part_, path_);
  });
  part_.clear();
}

} // namespace pluvia
