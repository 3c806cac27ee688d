#pragma once
#include <memory>
#include <string>
#include <vector>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// What the values of a raw frame are: it decides which values are possible and how cells are made of pixels.
enum class Quantity {
  brightness_temperature, ///< [K]
  precipitation_rate      ///< [mm h-1], mean over the frame's interval
};

/// One image or rain field in a raw file, before its values are read. A plain value.
struct RawFrame {
  std::string channel; ///< names the archive's variables: "tb" becomes tb_mean and tb_min
  Quantity quantity = Quantity::brightness_temperature;
  Time begin = 0, end = 0; ///< (begin, end] that the values are means over; equal for an image. A reader
                           ///< resolves here whether its format labels the start or the end
  long position = 0;       ///< in the file, as its reader counts
};

/// A box of the Earth [degrees]; west + 360 >= east > west, in any turn.
struct GeoBox {
  double south = 0, north = 0, west = 0, east = 0;
};

/// Where the pixels of a window of a raw file lie. A plain value.
struct Geolocation {
  Rect window;                               ///< pixels; empty when none lies in the box that was asked for
  std::vector<double> latitudes, longitudes; ///< [degrees] of centres: of each row and of each column of a
                                             ///< regular grid, or of each pixel, row-major
  double pixel_height = 0, pixel_width = 0;  ///< [degrees], about
};

/// An open file of satellite images or precipitation in its producer's format. Every member is local and
/// throws a data Error that names the file when it is damaged.
class RawFile {
public:
  virtual ~RawFile() = default;
  virtual std::vector<RawFrame> frames() const = 0;
  /// The window of all pixels that touch `box`. Where the file ends inside the box, pixels within
  /// `margin_degrees` beyond its edge belong to it too, as missing ones: so a cell at the edge tells how much
  /// of it the file covers.
  virtual Geolocation locate(const GeoBox& box, double margin_degrees) const = 0;
  /// Values [rows x columns of the window], in the units of the frame's quantity; pixels that are missing, or
  /// that the format's quality flags call unusable, are NaN.
  virtual std::vector<float> read(const RawFrame& frame, const Rect& window) const = 0;
};

/// Opens a raw file in the format that its content shows, whatever its name. Local. Throws a data Error when
/// it is of no known format or damaged, a usage Error when it cannot be opened at all.
std::unique_ptr<RawFile> open_raw_file(const std::string& path);

} // namespace pluvia
