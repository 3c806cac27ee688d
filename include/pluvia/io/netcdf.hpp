#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"

namespace pluvia {

enum class NcType { i8, u8, i16, i32, f32, f64 };

/// A NetCDF variable as it stands in a file.
struct NcVariable {
  std::string name;
  std::vector<std::string> dimensions;
  std::vector<std::size_t> extents;
};

/// Whether a file begins as a NetCDF file does, whatever its name; nothing is said about the rest of it.
/// Local. Throws a usage Error when it cannot be opened.
bool is_netcdf(const std::string& path);

/// One NetCDF file, or one group of it, open for reading by this rank alone. Every member is local, holds
/// library_lock, and throws a data Error that names the file when the file is damaged. Move-only.
class NcReader {
public:
  /// Throws a usage Error when the file cannot be opened at all, a data Error when it is no NetCDF file or
  /// has no such group.
  explicit NcReader(const std::string& path, const std::string& group = {});
  ~NcReader();
  NcReader(NcReader&& other) noexcept;
  NcReader& operator=(NcReader&& other) noexcept;

  const std::string& path() const { return path_; }
  std::vector<NcVariable> variables() const;
  bool has(const std::string& variable) const;
  bool has_group(const std::string& name) const;
  NcVariable variable(const std::string& name) const;
  /// Names of a variable's attributes ("" = the file's own).
  std::vector<std::string> attributes(const std::string& variable) const;
  /// A text attribute; empty when absent or not a text.
  std::string text(const std::string& variable, const std::string& attribute) const;
  /// A numeric attribute; empty when absent or a text.
  std::vector<double> numbers(const std::string& variable, const std::string& attribute) const;

  /// A whole variable, unpacked, missing values as NaN.
  std::vector<double> values(const std::string& variable) const;
  /// A hyperslab, unpacked: stored * scale_factor + add_offset; values equal to _FillValue or missing_value
  /// (or to the type's default fill), outside valid_range/valid_min/valid_max, or NaN become NaN. Honours
  /// _Unsigned.
  void read(const std::string& variable, const std::vector<std::size_t>& start,
            const std::vector<std::size_t>& count, std::span<float> out) const;

private:
  void check(int status, const std::string& what) const;
  int variable_id(const std::string& name) const;
  void read_doubles(int id, const std::vector<std::size_t>& start, const std::vector<std::size_t>& count,
                    std::span<double> out) const;
  std::string path_;
  int opened_ = -1; ///< to be closed
  int file_ = -1;   ///< what is read: the same, or a group in it
};

/// A whole coordinate variable; values stored in single precision stand for the decimals they print as (0.2,
/// not 0.200000003). Local.
std::vector<double> read_decimals(const NcReader& file, const std::string& variable);

/// One NetCDF-4 file written by all ranks of a communicator, under PATH.part until commit() renames it: a
/// reader never sees half a file. Every member is collective with the same arguments on all ranks, but for a
/// tile, where it starts, and its values; when a call fails on one rank all ranks throw (failed Error).
/// Without commit() the destructor, collective too, removes the file. Coordinates and fields may be written
/// before all variables are added.
class NcWriter {
public:
  static constexpr std::size_t unlimited = 0;
  static constexpr Index chunk_cells = 512; ///< longest side of a chunk, the same whatever the rank count
  static constexpr float fill = 9.96920996838687e+36F; ///< written for NaN

  /// Creates missing folders on the way. Throws a usage Error when the file cannot be created.
  NcWriter(const Communicator& comm, const std::string& path);
  ~NcWriter();
  NcWriter(const NcWriter&) = delete;
  NcWriter& operator=(const NcWriter&) = delete;

  const Communicator& communicator() const { return comm_; }

  void add_dimension(const std::string& name, std::size_t extent);
  /// A small table that rank 0 writes.
  void add_table(const std::string& name, NcType type, const std::vector<std::string>& dimensions);
  /// A variable whose last two dimensions are rows and columns: chunks of at most 512 x 512 cells of one
  /// frame, shuffle and deflate 1; f32 fields get a _FillValue.
  void add_field(const std::string& name, NcType type, const std::vector<std::string>& dimensions);
  /// A field stored as 16-bit whole numbers, value = stored * scale + offset, with -32768 for NaN. write_tile
  /// rounds to the nearest, so that a value that is read back is off by at most scale / 2.
  void add_packed_field(const std::string& name, const std::vector<std::string>& dimensions, double scale,
                        double offset);
  /// Attributes; variable "" = of the file.
  void set_text(const std::string& variable, const std::string& attribute, const std::string& value);
  void set_numbers(const std::string& variable, const std::string& attribute, NcType type,
                   const std::vector<double>& values);

  /// A whole table, or a slab of one (rank 0's values count). An unlimited dimension grows as needed.
  void write_table(const std::string& name, std::span<const double> values);
  void write_table(const std::string& name, const std::vector<std::size_t>& start,
                   const std::vector<std::size_t>& count, std::span<const double> values);
  /// This rank's tile [count... x height x width] of a field, at `start` along the leading dimensions (both
  /// empty for a field of rows and columns alone). NaN becomes the fill value. An empty tile takes part.
  /// Ranks may write at different places in one call, each a frame of its own. Throws a failed Error when a
  /// value lies outside what a packed field can hold.
  void write_tile(const std::string& name, const std::vector<std::size_t>& start,
                  const std::vector<std::size_t>& count, const Rect& tile, std::span<const float> values);
  void write_tile(const std::string& name, const std::vector<std::size_t>& start,
                  const std::vector<std::size_t>& count, const Rect& tile,
                  std::span<const std::uint8_t> values);

  /// Closes, flushes to disk and renames to the final name.
  void commit();

private:
  template <class Body> void on_all(const std::string& what, Body&& body);
  template <class T, class Put>
  void put_tile(const std::string& name, const std::vector<std::size_t>& start,
                const std::vector<std::size_t>& count, const Rect& tile, std::span<const T> values, Put put);
  /// Asks for room for `bytes`, as rank 0 counts them, and for what the library keeps about them. When a
  /// write, or the closing, fails inside MPI-IO some ranks may wait in it for ever.
  void ask_room(std::size_t bytes) const;
  /// Ends the definitions, sets how ranks take part in the next write of `bytes`, and returns the variable's
  /// number.
  int prepare_write(const std::string& name, int access, std::size_t bytes);
  int variable_id(const std::string& name) const;
  int define(const std::string& name, NcType type, const std::vector<std::string>& dimensions);
  void close();

  struct Packing {
    double scale, offset;
  };
  const Communicator& comm_;
  std::string path_, part_;
  int file_ = -1;
  std::map<std::string, Packing> packed_; ///< by field
};

} // namespace pluvia
