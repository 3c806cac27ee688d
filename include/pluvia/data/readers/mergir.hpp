#pragma once
#include <memory>
#include <string>

#include "pluvia/data/readers/raw_file.hpp"

namespace pluvia {

/// GPM MERGIR: globally merged geostationary 11 um brightness temperatures of 4 km, Tb(time, lat, lon), two
/// nominal half-hourly images a file (Janowiak et al. 2017, doi 10.5067/P4HZB9N27EKU). Channel "tb". Local.
/// Nothing when the file holds something else; a data Error when it is damaged or contradicts its name.
std::unique_ptr<RawFile> open_mergir(const std::string& path);

} // namespace pluvia
