#pragma once
#include <algorithm>
#include <vector>

#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

/// Rows of neighbouring cells with the positions of their first cells in any tensor of the shape. Where every
/// cell stands by itself and follows the one before, rows may be cut anywhere: `flat_length` cells long.
struct Rows {
  Index count, length;
  bool flat;
  Shape shape;
  Rows(const Shape& s, bool may_flatten, Index flat_length) : flat(may_flatten), shape(s) {
    length = flat ? flat_length : s.x;
    count = flat ? (s.cells() + length - 1) / length : s.b * s.t * s.y;
  }
  Index cells_of(Index row) const { return flat ? std::min(length, shape.cells() - row * length) : length; }
  template <class T> auto* start(T& tensor, Index row) const {
    if (flat) return tensor.cell(0, 0, 0, 0) + row * length * tensor.shape().c;
    const Index y = row % shape.y, t = row / shape.y % shape.t, b = row / shape.y / shape.t;
    return tensor.cell(b, t, y, 0);
  }
};

inline Index round_up(Index n, Index multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// `n` things in as few parts of at most `most` as there must be, and these as even as possible: a remainder
/// of few leaves the multipliers waiting for each other.
inline int even_part(Index n, int most) {
  const Index parts = (n + most - 1) / most;
  return static_cast<int>((n + parts - 1) / parts);
}

/// How the sum over cells of a weight gradient is cut: the cells into chunks and the units of work into
/// groups, which gives tasks for the threads, each with a partial sum of its own; these are added in order.
/// The cuts follow from the shape alone, so the sums are the same for every thread count.
struct GradientCuts {
  Index chunks, groups;
};
/// Many chunks where the sums (`weights` values) are small beside the values they are made of (`channels` in
/// each of the cells), for every group reads all of these.
inline GradientCuts cut_gradient(Index cells, Index channels, Index weights, Index rows, Index units) {
  constexpr Index chunk_cells = 512, most_chunks = 32, enough_tasks = 16;
  const Index chunks = std::clamp<Index>(std::min(cells / chunk_cells, cells * channels / (4 * weights)), 1,
                                         std::min(most_chunks, rows));
  return {chunks, std::clamp<Index>((enough_tasks + chunks - 1) / chunks, 1, units)};
}

} // namespace pluvia
