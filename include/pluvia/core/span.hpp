#pragma once
#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Half-open range of indices.
struct Span {
  Index from = 0, to = 0;
  PLUVIA_ANYWHERE Index size() const { return to - from; }
  bool operator==(const Span&) const = default;
};

PLUVIA_ANYWHERE inline Span shifted(Span s, Index by) {
  return {s.from + by, s.to + by};
}
/// May be empty, with `to` before `from`.
PLUVIA_ANYWHERE inline Span intersect(Span a, Span b) {
  return {a.from > b.from ? a.from : b.from, a.to < b.to ? a.to : b.to};
}

} // namespace pluvia
