#pragma once
#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Half-open range of indices.
struct Span {
  Index from = 0, to = 0;
  PLUVIA_ANYWHERE Index size() const { return to - from; }
  bool operator==(const Span&) const = default;
};

/// One of so many runs, as even as possible, that cover [0, n). A plain value.
struct Share {
  int member = 0, members = 1;
  Span of(Index n) const { return {n * member / members, n * (member + 1) / members}; }
};

PLUVIA_ANYWHERE inline Span shifted(Span s, Index by) {
  return {s.from + by, s.to + by};
}
/// May be empty, with `to` before `from`.
PLUVIA_ANYWHERE inline Span intersect(Span a, Span b) {
  return {a.from > b.from ? a.from : b.from, a.to < b.to ? a.to : b.to};
}

} // namespace pluvia
