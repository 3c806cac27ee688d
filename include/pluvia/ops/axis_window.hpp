#pragma once
#include <algorithm>

#include "pluvia/core/span.hpp"

namespace pluvia {

/// Along one axis: which keys a query sees. Ranges rise with the query, in unwrapped global indices.
struct AxisWindow {
  enum class Kind {
    own,     ///< the query's own index
    around,  ///< 2 radius + 1 indices, clamped to the axis so that every query has as many as fit
    wrapped, ///< 2 radius + 1 indices on a closed axis (at most its length)
    block,   ///< the aligned block of `size` indices that holds the query
    past,    ///< all indices up to the query's own
    all      ///< every index
  };
  Kind kind = Kind::own;
  Index size = 0;   ///< radius, or block size
  Index extent = 0; ///< of the axis

  PLUVIA_ANYWHERE Span keys(Index query) const;
  /// The queries that see a key: the inverse of keys(). On axes where queries and keys are indexed alike.
  PLUVIA_ANYWHERE Span queries(Index key) const;
};

PLUVIA_ANYWHERE inline Span AxisWindow::keys(Index i) const {
  const Index width = std::min(2 * size + 1, extent);
  switch (kind) {
  case Kind::around: {
    const Index from = std::clamp<Index>(i - size, 0, extent - width);
    return {from, from + width};
  }
  case Kind::wrapped:
    return {i - (width - 1) / 2, i - (width - 1) / 2 + width};
  case Kind::block:
    return {i / size * size, std::min(i / size * size + size, extent)};
  case Kind::past:
    return {0, i + 1};
  case Kind::all:
    return {0, extent};
  default:
    return {i, i + 1};
  }
}

PLUVIA_ANYWHERE inline Span AxisWindow::queries(Index j) const {
  const Index width = std::min(2 * size + 1, extent);
  switch (kind) {
  case Kind::around: {
    // keys(i) rises with i: the first query whose window reaches j, and the first whose window starts past
    // it.
    const Index from = j < width ? 0 : j - (width - 1) + size;
    const Index to = j >= extent - width ? extent : j + size + 1;
    return {from, to};
  }
  case Kind::wrapped: {
    const Index before = (width - 1) / 2;
    return {j - (width - 1 - before), j + before + 1};
  }
  case Kind::block:
    return {j / size * size, std::min(j / size * size + size, extent)};
  case Kind::past:
    return {j, extent};
  case Kind::all:
    return {0, extent};
  default:
    return {j, j + 1};
  }
}

} // namespace pluvia
