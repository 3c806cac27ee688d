// A field of a network test: the same numbers for the same global elements on every tiling.
#pragma once
#include <cstdint>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia::test {

/// Standard normal numbers, [1, t, tile height, tile width, c].
inline Tensor field(const Rect& tile, const Rect& domain, Index t, Index c, std::uint64_t seed,
                    Margin margin = {}) {
  Tensor x({1, t, tile.height(), tile.width(), c}, margin);
  for (Index it = 0; it < t; ++it)
    for (Index y = 0; y < tile.height(); ++y)
      for (Index ix = 0; ix < tile.width(); ++ix)
        for (Index ic = 0; ic < c; ++ic)
          x.cell(0, it, y, ix)[ic] = static_cast<float>(random_normal(
              seed, RandomPurpose::test,
              static_cast<std::uint64_t>(
                  ((it * domain.height() + y + tile.y0) * domain.width() + ix + tile.x0) * c + ic)));
  return x;
}

} // namespace pluvia::test
