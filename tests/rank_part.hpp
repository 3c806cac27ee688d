#pragma once
// What a rank has of fields and targets over the whole domain, for tests of process grids.
#include <algorithm>
#include <cstdint>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/ops/loss.hpp"

namespace pluvia::test {

/// Those frames, or leads, and cells of a tensor over the whole domain.
inline Tensor part_of(const Tensor& all, const Rect& tile, Span t, Margin margin = {}) {
  Tensor out({1, t.size(), tile.height(), tile.width(), all.shape().c}, margin);
  for (Index it = t.from; it < t.to; ++it)
    for (Index y = tile.y0; y < tile.y1; ++y)
      std::copy_n(all.cell(0, it, y, tile.x0), tile.width() * all.shape().c,
                  out.cell(0, it - t.from, y - tile.y0, 0));
  return out;
}

/// How many values of a part are not those of the whole.
inline std::int64_t differences(const Tensor& part, const Tensor& all, const Rect& tile, Span t) {
  std::int64_t out = 0;
  for (Index it = t.from; it < t.to; ++it)
    for (Index y = tile.y0; y < tile.y1; ++y)
      for (Index i = 0; i < tile.width() * part.shape().c; ++i)
        out += part.cell(0, it - t.from, y - tile.y0, 0)[i] != all.cell(0, it, y, tile.x0)[i];
  return out;
}

/// Random classes of a rank's cells and leads, the same for a cell of the domain on every process grid.
inline Target target_of(const Rect& tile, const Rect& domain, Span leads, Index classes, std::uint64_t seed) {
  Target target;
  for (Index lead = leads.from; lead < leads.to; ++lead)
    for (Index y = tile.y0; y < tile.y1; ++y)
      for (Index x = tile.x0; x < tile.x1; ++x)
        target.classes.push_back(static_cast<std::int8_t>(
            random_below(static_cast<std::uint64_t>(classes), seed, RandomPurpose::test,
                         static_cast<std::uint64_t>((lead * domain.height() + y) * domain.width() + x))));
  target.weights.assign(static_cast<std::size_t>(leads.size() * tile.height()),
                        1.0F / static_cast<float>(domain.cells()));
  return target;
}

} // namespace pluvia::test
