// Which process grid is taken for a domain.
#include "pluvia/comm/tiling.hpp"

#include <utility>

#include <gtest/gtest.h>

namespace pluvia {
namespace {

std::pair<int, int> chosen(Index ny, Index nx, int ranks) {
  const GridShape shape = choose_grid_shape(ny, nx, 3, ranks);
  return {shape.rows, shape.cols};
}

TEST(GridShape, HasTheLeastCircumferenceAndOfEqualOnesTheWidestTiles) {
  EXPECT_EQ(chosen(128, 128, 2), std::pair(2, 1));
  EXPECT_EQ(chosen(128, 128, 4), std::pair(2, 2));
  EXPECT_EQ(chosen(128, 128, 8), std::pair(4, 2));
  EXPECT_EQ(chosen(128, 256, 2), std::pair(1, 2)) << "square tiles come first";
  EXPECT_EQ(chosen(64, 256, 8), std::pair(2, 4)) << "of 32 x 64 cells, not 64 x 32";
}

} // namespace
} // namespace pluvia
