#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/span.hpp"

namespace pluvia {

/// A box of a global array: `start` and `count` along each dimension.
struct Hyperslab {
  std::vector<std::int64_t> start, count;
};

/// One HDF5 file of f32 arrays and texts, addressed by paths such as "arrays/weights/head". Holds
/// library_lock in every call and throws a failed Error (a data Error when reading) that names the file.
/// Move-only.
class H5File {
public:
  static constexpr std::size_t user_block = 4096; ///< bytes before the HDF5 data that the caller may fill

  /// A new file written by all ranks. Collective; so are then all writes.
  static H5File create(const Communicator& comm, const std::string& path);
  /// An existing file read by all ranks; reads of boxes are collective. Collective.
  static H5File open(const Communicator& comm, const std::string& path);
  /// An existing file read by this rank alone. Local, and so are then all reads.
  static H5File open_alone(const std::string& path);

  ~H5File();
  H5File(H5File&& other) noexcept;
  H5File& operator=(H5File&& other) noexcept;

  /// Creates an array of global `extents` and writes this rank's box (an empty box takes part). Groups on the
  /// way are made.
  void write(const std::string& name, const std::vector<std::int64_t>& extents, const Hyperslab& box,
             std::span<const float> values);
  /// The same of a run of its values in row-major order; it must have a dimension.
  void write(const std::string& name, const std::vector<std::int64_t>& extents, Span run,
             std::span<const float> values);
  /// Writes a text from rank 0; all ranks pass its length in `text`.
  void write_text(const std::string& name, const std::string& text);

  std::vector<std::string>
  names(const std::string& group) const; ///< of all arrays and texts below it, sorted
  std::vector<std::int64_t> extents(const std::string& name) const;
  void read(const std::string& name, const Hyperslab& box, std::span<float> out) const;
  std::string read_text(const std::string& name) const;

  /// Writes out what the library keeps. Collective when it was opened so.
  void flush();
  /// Closes the file, reporting what the destructor would have to keep quiet. Collective when it was opened
  /// so.
  void close();

private:
  /// Boxes apart from each other, in row-major order.
  void write(const std::string& name, const std::vector<std::int64_t>& extents,
             const std::vector<Hyperslab>& boxes, std::span<const float> values);
  enum class Access { local, collective };
  H5File(std::string path, std::int64_t file, Access access, int rank)
      : path_(std::move(path)), file_(file), access_(access), rank_(rank) {}
  std::string path_;
  std::int64_t file_ = -1;
  Access access_ = Access::local;
  int rank_ = 0;
};

} // namespace pluvia
