#pragma once
#include <memory>
#include <string>

#include "pluvia/data/readers/raw_file.hpp"

namespace pluvia {

/// IMERG half-hourly precipitation, precipitationCal (V06) or precipitation (V07) on (time, lon, lat), in the
/// file or in its group Grid (Huffman et al. 2023, doi 10.5067/GPM/IMERG/3B-HH/07). Its time names the start
/// of the half hour. Channel "precip". Local. Nothing when the file holds something else; a data Error when
/// it is damaged, contradicts its name, or is no half-hourly rate.
std::unique_ptr<RawFile> open_imerg(const std::string& path);

} // namespace pluvia
