#include "pluvia/io/hdf5.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <hdf5.h>

#include "pluvia/core/error.hpp"
#include "pluvia/io/library_lock.hpp"

namespace pluvia {

namespace {
/// Owns one HDF5 identifier and closes it with `close`.
class Handle {
public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what) : id_(id), close_(close) {
    if (id < 0) fail(ExitCode::data, what, "HDF5 refused", "The file may be damaged.");
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  operator hid_t() const { return id_; }

private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void require(herr_t status, const std::string& what) {
  if (status < 0) fail(ExitCode::data, what, "HDF5 refused", "The file may be damaged.");
}
void require_written(herr_t status, const std::string& what) {
  if (status < 0) fail(ExitCode::failed, what, "HDF5 refused", "The disk may be full.");
}

Handle file_access(const Communicator* comm, const std::string& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); // errors are reported here, not by the library
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "Cannot open " + path);
  if (comm != nullptr) require(H5Pset_fapl_mpio(access, comm->raw(), MPI_INFO_NULL), "Cannot open " + path);
  return access;
}

std::vector<hsize_t> sizes(const std::vector<std::int64_t>& values) {
  return {values.begin(), values.end()};
}

bool is_empty(const Hyperslab& box) {
  return std::find(box.count.begin(), box.count.end(), 0) != box.count.end();
}

/// Selects boxes of a dataspace; empty ones, and none at all, select nothing.
void select(hid_t space, const std::vector<Hyperslab>& boxes) {
  if (boxes.size() == 1 && boxes[0].count.empty()) return; // a scalar
  require(H5Sselect_none(space), "Cannot select");
  for (const Hyperslab& box : boxes)
    if (!is_empty(box))
      require(H5Sselect_hyperslab(space, H5S_SELECT_OR, sizes(box.start).data(), nullptr,
                                  sizes(box.count).data(), nullptr),
              "Cannot select a part of an array");
}

/// The fewest boxes that a run of values in row-major order consists of.
std::vector<Hyperslab> boxes_of(const std::vector<std::int64_t>& extents, Span run) {
  std::vector<Hyperslab> out;
  while (run.from < run.to) {
    // Along the first dimension whose whole parts the rest begins with.
    std::int64_t part = 1;
    for (const std::int64_t n : extents) part *= n;
    std::size_t along = 0;
    for (; along < extents.size(); ++along) {
      part /= extents[along];
      if (run.from % part == 0 && run.size() >= part) break;
    }
    Hyperslab box{std::vector<std::int64_t>(extents.size(), 0), extents};
    std::int64_t place = run.from / part;
    for (std::size_t d = along + 1; d-- > 0; place /= extents[d]) {
      box.start[d] = place % extents[d];
      box.count[d] = 1;
    }
    box.count[along] = std::min(run.size() / part, extents[along] - box.start[along]);
    run.from += box.count[along] * part;
    out.push_back(std::move(box));
  }
  return out;
}

Handle memory_space(const std::vector<Hyperslab>& boxes, std::size_t values) {
  const std::array<hsize_t, 1> length{std::max<hsize_t>(values, 1)};
  Handle space(H5Screate_simple(1, length.data(), nullptr), H5Sclose, "Cannot describe an array");
  if (std::ranges::all_of(boxes, is_empty)) H5Sselect_none(space);
  return space;
}
} // namespace

H5File H5File::create(const Communicator& comm, const std::string& path) {
  const LibraryGuard guard(library_lock());
  const Handle access = file_access(&comm, path);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "Cannot create " + path);
  require(H5Pset_userblock(creation, user_block), "Cannot create " + path);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
  require_written(static_cast<herr_t>(file < 0 ? -1 : 0), "Cannot create " + path);
  return {path, file, Access::collective, comm.rank()};
}

H5File H5File::open(const Communicator& comm, const std::string& path) {
  const LibraryGuard guard(library_lock());
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, file_access(&comm, path));
  require(static_cast<herr_t>(file < 0 ? -1 : 0), "Cannot open " + path);
  return {path, file, Access::collective, comm.rank()};
}

H5File H5File::open_alone(const std::string& path) {
  const LibraryGuard guard(library_lock());
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, file_access(nullptr, path));
  require(static_cast<herr_t>(file < 0 ? -1 : 0), "Cannot open " + path);
  return {path, file, Access::local, 0};
}

H5File::~H5File() {
  if (file_ < 0) return;
  const LibraryGuard guard(library_lock());
  H5Fclose(file_);
}

H5File::H5File(H5File&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)), access_(other.access_),
      rank_(other.rank_) {}

H5File& H5File::operator=(H5File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  std::swap(access_, other.access_);
  std::swap(rank_, other.rank_);
  return *this;
}

void H5File::flush() {
  const LibraryGuard guard(library_lock());
  require_written(H5Fflush(file_, H5F_SCOPE_LOCAL), "Cannot finish " + path_);
}

void H5File::close() {
  const LibraryGuard guard(library_lock());
  require_written(H5Fclose(std::exchange(file_, -1)), "Cannot finish " + path_);
}

namespace {
Handle transfer(bool collective) {
  Handle properties(H5Pcreate(H5P_DATASET_XFER), H5Pclose, "Cannot describe a transfer");
  if (collective) require(H5Pset_dxpl_mpio(properties, H5FD_MPIO_COLLECTIVE), "Cannot describe a transfer");
  return properties;
}

Handle create_dataset(hid_t file, const std::string& path, const std::string& name, hid_t type, hid_t space) {
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "Cannot write " + path);
  require(H5Pset_create_intermediate_group(links, 1), "Cannot write " + path);
  // Every byte is written by someone, so filling first would only double the work; and no dates in the file,
  // or equal models would have unequal digests.
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "Cannot write " + path);
  require(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), "Cannot write " + path);
  require(H5Pset_obj_track_times(creation, 0), "Cannot write " + path);
  const hid_t data = H5Dcreate2(file, name.c_str(), type, space, links, creation, H5P_DEFAULT);
  const std::string what = "Cannot write " + name + " to " + path;
  require_written(static_cast<herr_t>(data < 0 ? -1 : 0), what);
  return {data, H5Dclose, what};
}
} // namespace

void H5File::write(const std::string& name, const std::vector<std::int64_t>& extents, const Hyperslab& box,
                   std::span<const float> values) {
  write(name, extents, std::vector{box}, values);
}

void H5File::write(const std::string& name, const std::vector<std::int64_t>& extents, Span run,
                   std::span<const float> values) {
  write(name, extents, boxes_of(extents, run), values);
}

void H5File::write(const std::string& name, const std::vector<std::int64_t>& extents,
                   const std::vector<Hyperslab>& boxes, std::span<const float> values) {
  const LibraryGuard guard(library_lock());
  const Handle space(extents.empty()
                         ? H5Screate(H5S_SCALAR)
                         : H5Screate_simple(static_cast<int>(extents.size()), sizes(extents).data(), nullptr),
                     H5Sclose, "Cannot write " + path_);
  const Handle data = create_dataset(file_, path_, name, H5T_IEEE_F32LE, space);
  const Handle memory = memory_space(boxes, values.size());
  select(space, boxes);
  require_written(
      H5Dwrite(data, H5T_NATIVE_FLOAT, memory, space, transfer(access_ == Access::collective), values.data()),
      "Cannot write " + name + " to " + path_);
}

void H5File::write_text(const std::string& name, const std::string& text) {
  const LibraryGuard guard(library_lock());
  const std::array<hsize_t, 1> length{text.size()};
  const Handle space(H5Screate_simple(1, length.data(), nullptr), H5Sclose, "Cannot write " + path_);
  const Handle data = create_dataset(file_, path_, name, H5T_STD_U8LE, space);
  const std::int64_t mine = rank_ == 0 ? static_cast<std::int64_t>(text.size()) : 0;
  const std::vector<Hyperslab> boxes{{{0}, {mine}}};
  const Handle memory = memory_space(boxes, text.size());
  select(space, boxes);
  require_written(
      H5Dwrite(data, H5T_NATIVE_UCHAR, memory, space, transfer(access_ == Access::collective), text.data()),
      "Cannot write " + name + " to " + path_);
}

std::vector<std::string> H5File::names(const std::string& group) const {
  const LibraryGuard guard(library_lock());
  std::vector<std::string> out;
  if (H5Lexists(file_, group.c_str(), H5P_DEFAULT) <= 0) return out;
  const auto collect = [](hid_t, const char* name, const H5O_info_t* info, void* list) -> herr_t {
    if (info->type == H5O_TYPE_DATASET) static_cast<std::vector<std::string>*>(list)->emplace_back(name);
    return 0;
  };
  require(H5Ovisit_by_name2(file_, group.c_str(), H5_INDEX_NAME, H5_ITER_INC, collect, &out, H5O_INFO_BASIC,
                            H5P_DEFAULT),
          "Cannot list " + path_);
  return out;
}

std::vector<std::int64_t> H5File::extents(const std::string& name) const {
  const LibraryGuard guard(library_lock());
  const Handle data(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose, path_ + " has no array " + name);
  const Handle space(H5Dget_space(data), H5Sclose, "Cannot read " + name + " of " + path_);
  std::vector<hsize_t> out(static_cast<std::size_t>(std::max(0, H5Sget_simple_extent_ndims(space))));
  if (!out.empty()) H5Sget_simple_extent_dims(space, out.data(), nullptr);
  return {out.begin(), out.end()};
}

void H5File::read(const std::string& name, const Hyperslab& box, std::span<float> out) const {
  const LibraryGuard guard(library_lock());
  const Handle data(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose, path_ + " has no array " + name);
  const Handle space(H5Dget_space(data), H5Sclose, "Cannot read " + name + " of " + path_);
  const Handle memory = memory_space({box}, out.size());
  select(space, {box});
  require(H5Dread(data, H5T_NATIVE_FLOAT, memory, space, transfer(access_ == Access::collective), out.data()),
          "Cannot read " + name + " of " + path_);
}

std::string H5File::read_text(const std::string& name) const {
  const auto length = extents(name);
  const LibraryGuard guard(library_lock());
  const Handle data(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose, path_ + " has no text " + name);
  std::string out(static_cast<std::size_t>(length.empty() ? 0 : length[0]), '\0');
  require(
      H5Dread(data, H5T_NATIVE_UCHAR, H5S_ALL, H5S_ALL, transfer(access_ == Access::collective), out.data()),
      "Cannot read " + name + " of " + path_);
  return out;
}

} // namespace pluvia
