#include "pluvia/comm/tiling.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <string>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {
Index coarsen(Index n, int level) {
  return (n + (Index{1} << level) - 1) >> level;
}

std::vector<Index> even_cuts(Index cells, int parts) {
  std::vector<Index> cuts(static_cast<std::size_t>(parts) + 1);
  for (int i = 0; i <= parts; ++i) cuts[static_cast<std::size_t>(i)] = cells * i / parts;
  return cuts;
}
/// Finest cells along the side of what cuts fall on.
Index block_cells(int levels, Index block) {
  const Index coarsest = Index{1} << (levels - 1);
  if (block % coarsest != 0)
    fail(ExitCode::usage, "Blocks of " + std::to_string(block) + " cells do not fit the network's levels",
         "its coarsest cells have " + std::to_string(coarsest), "Make parallel.block a multiple of that.");
  return std::max(block, coarsest);
}

/// How many there are, and the sentence that says so.
struct Blocks {
  Index y, x;
  std::string text;
  Blocks(Index ny, Index nx, int levels, Index block) {
    const Index cells = block_cells(levels, block);
    y = (ny + cells - 1) / cells, x = (nx + cells - 1) / cells;
    text = (block > 0 ? "with train.exact a " : "the coarsest level of a ") + std::to_string(ny) + " x " +
           std::to_string(nx) + " grid has " + std::to_string(y) + " x " + std::to_string(x) +
           (block > 0 ? " blocks" : " cells");
  }
};
} // namespace

Rect intersect(const Rect& a, const Rect& b) {
  return {std::max(a.y0, b.y0), std::min(a.y1, b.y1), std::max(a.x0, b.x0), std::min(a.x1, b.x1)};
}

Rect grown(const Rect& r, const Margin& m) {
  return {r.y0 - m.y_lo, r.y1 + m.y_hi, r.x0 - m.x_lo, r.x1 + m.x_hi};
}
Rect coarser(const Rect& r) {
  return {r.y0 >> 1, (r.y1 + 1) >> 1, r.x0 >> 1, (r.x1 + 1) >> 1};
}
Rect finer(const Rect& r) {
  return {2 * r.y0, 2 * r.y1, 2 * r.x0, 2 * r.x1};
}

Tiling::Tiling(Index ny, Index nx, int levels, int rows, int cols, Edge x_edge, Index block)
    : ny_(ny), nx_(nx), levels_(levels), x_edge_(x_edge), block_(block_cells(levels, block)) {
  const Blocks blocks(ny, nx, levels, block);
  if (rows < 1 || cols < 1 || rows > blocks.y || cols > blocks.x)
    fail(ExitCode::usage,
         "A process grid of " + std::to_string(rows) + " x " + std::to_string(cols) + " does not fit",
         blocks.text,
         block > 0 ? "Use fewer ranks, or a smaller parallel.block."
                   : "Use fewer ranks, or fewer levels in model.channels.");
  if (x_edge == Edge::periodic && nx % (Index{1} << (levels - 1)) != 0)
    fail(ExitCode::usage,
         "The closed longitude axis of " + std::to_string(nx) + " columns cannot be coarsened",
         "it must be divisible by " + std::to_string(Index{1} << (levels - 1)),
         "Set grid.periodic_x: no, or use fewer levels in model.channels.");
  y_cuts_ = even_cuts(blocks.y, rows);
  x_cuts_ = even_cuts(blocks.x, cols);
}

Tiling::Tiling(const Tiling& whole, int level, const Rect& window) : Tiling(whole) {
  y_cuts_ = x_cuts_ = {0, 1};
  window_level_ = level, window_ = window;
}

Rect Tiling::domain(int level) const {
  return {0, coarsen(ny_, level), 0, coarsen(nx_, level)};
}

Rect Tiling::existing(int level, const Rect& r) const {
  const Rect all = domain(level);
  if (x_edge_ == Edge::closed) return intersect(r, all);
  const bool whole = cols() == 1;
  return {std::max(r.y0, all.y0), std::min(r.y1, all.y1), whole ? all.x0 : r.x0, whole ? all.x1 : r.x1};
}

Rect Tiling::tile(int rank, int level) const {
  assert(window_level_ < 0 || window_level_ == level);
  if (window_level_ >= 0) return window_;
  const Index scale = block_ >> level;
  const auto row = static_cast<std::size_t>(rank / cols()), col = static_cast<std::size_t>(rank % cols());
  const Rect cut{y_cuts_[row] * scale, y_cuts_[row + 1] * scale, x_cuts_[col] * scale,
                 x_cuts_[col + 1] * scale};
  return intersect(cut, domain(level));
}

GridShape choose_grid_shape(Index ny, Index nx, int levels, int ranks, int rows, int cols, Index block) {
  const Blocks blocks(ny, nx, levels, block);
  GridShape best{0, 0};
  double best_cost = 0;
  for (int r = 1; r <= ranks; ++r) {
    if (ranks % r != 0 || (rows > 0 && r != rows) || (cols > 0 && ranks / r != cols)) continue;
    const int c = ranks / r;
    if (r > blocks.y || c > blocks.x) continue;
    // Halo traffic of the largest tile: its circumference. Of equal ones the widest, whose rows are longest:
    // units of vectors and matrices take several cells of a row at once.
    const double cost =
        std::ceil(static_cast<double>(blocks.y) / r) + std::ceil(static_cast<double>(blocks.x) / c);
    if (best.rows == 0 || cost <= best_cost) best = {r, c}, best_cost = cost;
  }
  if (best.rows == 0)
    fail(ExitCode::usage,
         std::to_string(ranks) + (ranks == 1 ? " tile" : " tiles") + " cannot be laid out over the grid",
         blocks.text + (rows > 0 || cols > 0 ? "; parallel.rows is " + std::to_string(rows) +
                                                   ", parallel.cols " + std::to_string(cols)
                                             : ""),
         std::string("Start another number of ranks, ") +
             (block > 0 ? "use a smaller parallel.block, " : "") +
             "or change parallel.rows and parallel.cols (0 = automatic).");
  return best;
}

} // namespace pluvia
