#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/io/grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// What is the same for every product of a run.
struct ProductHeader {
  Grid grid;
  std::vector<double> leads_hours, thresholds_mm;
  double window_hours = 6;
  std::string configuration;  ///< resolved YAML
  std::string weights_digest; ///< "sha256:..."
  std::string predictors;     ///< comma-separated
  double frame_minutes = 60;
  int history = 0;
};

/// Bits of the quality flag.
enum QualityFlag : std::uint8_t { input_frame_missing = 1, input_pixel_missing = 2, context_truncated = 4 };

/// One rank's part of one forecast.
struct ProductTile {
  Rect tile;
  Span leads;                               ///< of this rank, among those of the header
  std::vector<float> probability;           ///< [leads x thresholds x height x width], 0..1
  std::vector<std::uint8_t> quality;        ///< [height x width], QualityFlag bits
  std::vector<float> logits;                ///< [leads x classes x height x width], or empty
  std::vector<float> latitudes, longitudes; ///< [height x width] on projected grids, else empty [degrees]
};

/// Three decimals, half away from zero: a rising function, so probabilities stay monotone in the threshold.
float round_probability(float probability);

/// Adds, then writes, what leads and thresholds are: `time` with bounds, forecast_reference_time,
/// forecast_period and threshold. The file has a dimension "bnds". Collective.
void add_forecast_axes(NcWriter& file, const ProductHeader& header);
void write_forecast_axes(NcWriter& file, const ProductHeader& header, Time init);
/// Sets the conventions and how the file came about: source, history, input frames, configuration.
/// Collective.
void set_provenance(NcWriter& file, const ProductHeader& header, Time init);

/// "pluvia_pop_iYYYYMMDDTHHMMZ.nc".
std::string product_name(Time init);

/// Writes one CF-1.11 / ACDD-1.3 NetCDF-4 file from the tiles and leads of all ranks: temporary name, then rename, so that a
/// reader never sees half a file. Probabilities are rounded to three decimals, NaN = missing; logits are not
/// rounded. The data are the same whatever the rank count; only date_created and history differ. Collective.
/// Errors: failed when a probability is outside 0..1 or the file cannot be written; nothing is left behind.
void write_product(const Communicator& comm, const std::string& path, const ProductHeader& header, Time init,
                   const ProductTile& tile);

/// One forecast file as verification needs it.
struct ProductInfo {
  std::string path;
  Time init = 0;
  std::vector<double> leads_hours, thresholds_mm;
  double window_hours = 6;
  Grid grid;
};
/// Reads a product's header. Local. Throws a data Error when it is not one.
ProductInfo read_product_info(const std::string& path);
/// Probabilities [leads x thresholds x height x width] of a rectangle. Local.
std::vector<float> read_product(const ProductInfo& info, const Rect& rect);

} // namespace pluvia
