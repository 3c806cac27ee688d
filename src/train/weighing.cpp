#include "pluvia/train/weighing.hpp"

#include "pluvia/comm/reduce_sums.hpp"

namespace pluvia {

namespace {

/// Of a sample and the l-th lead of this rank, among the pairs of a batch.
std::size_t pair_of(const TrainingSample& sample, const ScoredCells& cells, std::size_t l) {
  return sample.number * static_cast<std::size_t>(cells.all_leads) +
         static_cast<std::size_t>(cells.leads.from) + l;
}

} // namespace

std::vector<float> cell_areas(const ScoredCells& cells) {
  std::vector<float> out;
  for (float row : cells.row_area) out.insert(out.end(), static_cast<std::size_t>(cells.tile.width()), row);
  return out;
}

Weighing weigh(const Communicator& comm, const ScoredCells& cells, std::span<const TrainingSample> samples,
               std::size_t size) {
  std::vector<FixedSum> areas(size * static_cast<std::size_t>(cells.all_leads));
  for (const TrainingSample& s : samples)
    for (std::size_t l = 0; l < s.observed.size(); ++l)
      for (std::size_t i = 0; i < s.observed[l].size(); ++i)
        if (s.observed[l][i] >= 0)
          areas[pair_of(s, cells, l)].add(cells.row_area[i / static_cast<std::size_t>(cells.tile.width())]);
  all_reduce(comm, areas);
  Weighing out;
  for (const FixedSum& area : areas) out.areas.push_back(area.value());
  for (double area : out.areas) out.pairs += area > 0 ? 1 : 0;
  return out;
}

Target target_of(const TrainingSample& sample, const ScoredCells& cells, const Weighing& weighing,
                 double pairs) {
  Target target;
  for (std::size_t l = 0; l < sample.observed.size(); ++l) {
    const auto& observed = sample.observed[l];
    if (observed.empty())
      target.classes.insert(target.classes.end(), static_cast<std::size_t>(cells.tile.cells()),
                            std::int8_t{-1});
    else
      target.classes.insert(target.classes.end(), observed.begin(), observed.end());
    const double area = weighing.areas[pair_of(sample, cells, l)];
    for (float row : cells.row_area)
      target.weights.push_back(area > 0 ? static_cast<float>(row / (pairs * area)) : 0.0F);
  }
  return target;
}

} // namespace pluvia
