#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/train/training_sample.hpp"

namespace pluvia {

/// The cells and leads that a rank scores.
struct ScoredCells {
  Rect tile;
  std::vector<float> row_area; ///< relative area of a cell, by row of the tile
  Span leads;                  ///< counted among all of them
  Index all_leads = 0;
};
/// Relative area of each cell, [height x width].
std::vector<float> cell_areas(const ScoredCells& cells);

/// How much of a batch is observed. Every observed pair of a sample and a lead counts alike in its loss, and
/// in a pair every observed cell by its area.
struct Weighing {
  std::vector<double> areas; ///< [samples x all leads]: of the domain's observed cells
  double pairs = 0;          ///< in which any cell is observed
};
/// Of a batch of `size` samples, of which the ranks of `comm` hand in some, each cell and lead once.
/// Collective.
Weighing weigh(const Communicator& comm, const ScoredCells& cells, std::span<const TrainingSample> samples,
               std::size_t size);

/// What the forecast of a sample is scored against: its losses over the batch are divided by `pairs`. Local.
Target target_of(const TrainingSample& sample, const ScoredCells& cells, const Weighing& weighing,
                 double pairs);

} // namespace pluvia
