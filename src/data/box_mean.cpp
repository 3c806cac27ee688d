#include "pluvia/data/box_mean.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pluvia {

std::vector<float> box_mean(std::span<const float> field, const Rect& held, const Rect& tile, int width) {
  const Index reach = width / 2, y0 = std::max(held.y0, tile.y0 - reach),
              y1 = std::min(held.y1, tile.y1 + reach);
  const auto columns = static_cast<std::size_t>(tile.width());
  std::vector<double> sum(static_cast<std::size_t>(y1 - y0) * columns), number(sum.size()); // along rows
#pragma omp parallel for schedule(static)
  for (Index y = y0; y < y1; ++y)
    for (Index x = tile.x0; x < tile.x1; ++x) {
      const auto i = static_cast<std::size_t>(y - y0) * columns + static_cast<std::size_t>(x - tile.x0);
      for (Index from = std::max(held.x0, x - reach); from < std::min(held.x1, x + reach + 1); ++from) {
        const float value = field[static_cast<std::size_t>((y - held.y0) * held.width() + from - held.x0)];
        if (std::isnan(value)) continue;
        sum[i] += value;
        number[i] += 1;
      }
    }
  std::vector<float> out(static_cast<std::size_t>(tile.cells()));
#pragma omp parallel for schedule(static)
  for (Index y = tile.y0; y < tile.y1; ++y)
    for (std::size_t x = 0; x < columns; ++x) {
      double total = 0, known = 0;
      for (Index from = std::max(y0, y - reach); from < std::min(y1, y + reach + 1); ++from) {
        total += sum[static_cast<std::size_t>(from - y0) * columns + x];
        known += number[static_cast<std::size_t>(from - y0) * columns + x];
      }
      out[static_cast<std::size_t>(y - tile.y0) * columns + x] =
          known > 0 ? static_cast<float>(total / known) : std::numeric_limits<float>::quiet_NaN();
    }
  return out;
}

} // namespace pluvia
