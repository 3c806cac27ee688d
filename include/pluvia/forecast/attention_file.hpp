#pragma once
#include <string>
#include <vector>

#include "pluvia/core/settings.hpp"
#include "pluvia/forecast/product.hpp"
#include "pluvia/nn/attention_probe.hpp"

namespace pluvia {

/// One model's attention at chosen points for one initial time.
struct AttentionRecord {
  const std::vector<LatLon>& points;
  const AttentionProbe& probe;           ///< gathered
  int first_level = 0;                   ///< level of the tiling that is level 0 of the file's names
  const std::vector<float>& probability; ///< [points x leads x thresholds], the product's
};

/// "pluvia_attention_iYYYYMMDDTHHMMZ.nc"; of several members "..._memberN.nc" (from 1).
std::string attention_name(Time init, std::size_t member, std::size_t members);

/// Writes one NetCDF-4 file, temporary name, then rename: for every kind of attention and level the weights
/// by head and their mean over heads on (point, lead, head, frame, row, column), as far as each applies, the
/// cells and frame times they belong to, the gates, and the forecast probabilities. The data are the same
/// whatever the rank count. Collective; rank 0's record counts. Throws a failed Error when the file cannot be
/// written.
void write_attention(const Communicator& comm, const std::string& path, const ProductHeader& header,
                     Time init, const AttentionRecord& record);

} // namespace pluvia
