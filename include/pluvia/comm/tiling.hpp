#pragma once
#include <vector>

#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Half-open rectangle of cells in global indices: rows [y0, y1), columns [x0, x1).
struct Rect {
  Index y0 = 0, y1 = 0, x0 = 0, x1 = 0;
  Index height() const { return y1 - y0; }
  Index width() const { return x1 - x0; }
  Index cells() const { return height() * width(); }
  bool empty() const { return y1 <= y0 || x1 <= x0; }
  bool operator==(const Rect&) const = default;
};
Rect intersect(const Rect& a, const Rect& b);
/// With the rows and columns that a margin has around it.
Rect grown(const Rect& r, const Margin& m);
/// The cells of the next coarser level that a rectangle touches, and those of the next finer one inside it.
Rect coarser(const Rect& r);
Rect finer(const Rect& r);

enum class Edge { closed, periodic };

/// How a grid of ny x nx cells and its coarser levels are cut over rows x cols ranks.
/// Level l has ceil(ny / 2^l) x ceil(nx / 2^l) cells. Cuts fall on whole cells of the coarsest level, as
/// evenly as possible, so every level is aligned on every rank and only stencils of stride 1 need halos; or
/// on whole blocks, where sums are to be taken within such. A plain value.
class Tiling {
public:
  /// block: finest cells along the side of a block, 0 = one coarsest cell. Throws a usage Error when rows or
  /// cols exceed the number of blocks, a block is no multiple of the coarsest cell, or a periodic width does
  /// not divide.
  Tiling(Index ny, Index nx, int levels, int rows, int cols, Edge x_edge = Edge::closed, Index block = 0);
  /// The same grid of which a single rank owns some cells of one level, and nobody the others. On a periodic
  /// x axis they may lie outside [0, nx).
  Tiling(const Tiling& whole, int level, const Rect& window);

  int levels() const { return levels_; }
  int rows() const { return static_cast<int>(y_cuts_.size()) - 1; }
  int cols() const { return static_cast<int>(x_cuts_.size()) - 1; }
  int ranks() const { return rows() * cols(); }
  Edge x_edge() const { return x_edge_; }
  /// All cells of a level.
  Rect domain(int level) const;
  /// What of a rectangle around cells of a tile there is: across the edge of a periodic axis its columns go
  /// on, but where tiles have the whole axis they are that, once.
  Rect existing(int level, const Rect& r) const;
  /// The cells of a level that a rank (row-major in rows x cols) owns; never empty.
  Rect tile(int rank, int level) const;

private:
  Index ny_, nx_;
  int levels_;
  Edge x_edge_;
  Index block_;
  std::vector<Index> y_cuts_, x_cuts_; // in blocks
  int window_level_ = -1;              // -1 = no window
  Rect window_ = {};
};

/// The rows x cols nearest to square tiles, rather wide than high, that uses all `ranks` on an ny x nx grid
/// with `levels` levels. A given rows or cols (> 0) is kept. Throws a usage Error when there is none.
struct GridShape {
  int rows = 1, cols = 1;
};
GridShape choose_grid_shape(Index ny, Index nx, int levels, int ranks, int rows = 0, int cols = 0,
                            Index block = 0);

} // namespace pluvia
