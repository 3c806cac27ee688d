// ranks: 1 2 3
// What samples weigh in a loss: every observed pair of a sample and a lead alike, its observed cells by area,
// whatever rank has them; what nobody observed weighs nothing.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/train/weighing.hpp"

namespace pluvia {
namespace {

constexpr Index rows = 5, cols = 3, leads = 2;
constexpr std::size_t samples = 3;

float area_of(Index row) {
  return 1.0F / static_cast<float>(1 + row);
}

/// The second lead of sample 1 lies outside the range, and sample 2 has no data; elsewhere a cell is missing
/// now and then.
bool observed(std::size_t sample, Index lead, Index row, Index col) {
  return sample != 2 && !(sample == 1 && lead == 1) && (row * cols + col + lead) % 4 != 0;
}

/// The domain's rows, cut over the ranks.
ScoredCells part_of(const Communicator& world) {
  const Span own = Share{world.rank(), world.size()}.of(rows);
  ScoredCells cells{{own.from, own.to, 0, cols}, {}, {0, leads}, leads};
  for (Index row = own.from; row < own.to; ++row) cells.row_area.push_back(area_of(row));
  return cells;
}
std::vector<TrainingSample> batch_on(const ScoredCells& cells) {
  std::vector<TrainingSample> out(samples);
  for (std::size_t s = 0; s < samples; ++s) {
    out[s].number = s;
    out[s].observed.resize(leads);
    for (Index lead = 0; lead < leads; ++lead) {
      if (s == 1 && lead == 1) continue; // as outside the range
      for (Index row = cells.tile.y0; row < cells.tile.y1; ++row)
        for (Index col = 0; col < cols; ++col)
          out[s].observed[static_cast<std::size_t>(lead)].push_back(observed(s, lead, row, col) ? 1 : -1);
    }
  }
  return out;
}

TEST(Weighing, EveryObservedPairCountsAlike) {
  const Communicator world(MPI_COMM_WORLD);
  const ScoredCells cells = part_of(world);
  const std::vector<TrainingSample> batch = batch_on(cells);
  const Weighing weighing = weigh(world, cells, batch, samples);
  EXPECT_EQ(weighing.pairs, 3);
  for (std::size_t s = 0; s < samples; ++s)
    for (Index lead = 0; lead < leads; ++lead) {
      double area = 0;
      for (Index row = 0; row < rows; ++row)
        for (Index col = 0; col < cols; ++col) area += observed(s, lead, row, col) ? area_of(row) : 0;
      EXPECT_NEAR(weighing.areas[s * leads + static_cast<std::size_t>(lead)], area, 1e-6);
    }
  // Over all ranks the weights of a pair's observed cells add up to its share of the batch.
  const Index height = cells.tile.height();
  std::vector<FixedSum> sums(samples * leads);
  for (const TrainingSample& s : batch) {
    const Target target = target_of(s, cells, weighing, weighing.pairs);
    ASSERT_EQ(target.classes.size(), static_cast<std::size_t>(leads * cells.tile.cells()));
    ASSERT_EQ(target.weights.size(), static_cast<std::size_t>(leads * height));
    for (std::size_t i = 0; i < target.classes.size(); ++i)
      if (target.classes[i] >= 0)
        sums[s.number * leads + i / static_cast<std::size_t>(cells.tile.cells())].add(
            target.weights[i / cols]);
  }
  all_reduce(world, sums);
  for (std::size_t p = 0; p < sums.size(); ++p)
    EXPECT_NEAR(sums[p].value(), weighing.areas[p] > 0 ? 1.0 / 3 : 0.0, 1e-6) << "pair " << p;
}

TEST(Weighing, RanksOfOtherLeadsWeighTheSame) {
  const Communicator world(MPI_COMM_WORLD);
  const Weighing whole = weigh(world, part_of(world), batch_on(part_of(world)), samples);
  // The first rank has all cells of the first lead, the last one of the second.
  ScoredCells cells{{0, rows, 0, cols}, {}, {}, leads};
  for (Index row = 0; row < rows; ++row) cells.row_area.push_back(area_of(row));
  const bool first = world.rank() == 0, last = world.rank() + 1 == world.size();
  cells.leads = {first ? 0 : 1, last ? 2 : 1};
  std::vector<TrainingSample> batch = batch_on(cells);
  for (TrainingSample& s : batch)
    s.observed = {s.observed.begin() + cells.leads.from, s.observed.begin() + cells.leads.to};
  const Weighing cut = weigh(world, cells, batch, samples);
  EXPECT_EQ(cut.areas, whole.areas) << "to the bit";
  EXPECT_EQ(cut.pairs, whole.pairs);
}

} // namespace
} // namespace pluvia
