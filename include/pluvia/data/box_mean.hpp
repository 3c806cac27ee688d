#pragma once
#include <span>
#include <vector>

#include "pluvia/comm/tiling.hpp"

namespace pluvia {

/// Mean over the known cells of the box of `width` x `width` cells around each cell of the tile, clipped to
/// `held`; NaN where none is known. `field`: [held.height x held.width]. Local.
std::vector<float> box_mean(std::span<const float> field, const Rect& held, const Rect& tile, int width);

} // namespace pluvia
