#include "pluvia/train/calibration_fit.hpp"

#include <utility>

namespace pluvia {

CalibrationFit::CalibrationFit(int leads, int thresholds, std::vector<float> area)
    : leads_(leads), thresholds_(thresholds), area_(std::move(area)) {}

void CalibrationFit::add(int lead, Time end, std::vector<float> base, std::vector<float> probability,
                         std::vector<std::int8_t> observed) {
  forecasts_.push_back({lead, block_of(end), std::move(base), std::move(probability), std::move(observed)});
}

Calibration CalibrationFit::fit(const Communicator& comm) const {
  ShrinkageSums sums(leads_, thresholds_);
  for (const std::int64_t block : blocks_) sums.open(block);
  for (const Kept& f : forecasts_) sums.add(f.lead, f.block, {f.base, f.probability, f.observed, area_});
  sums.reduce(comm);
  Calibration calibration = fit_shrinkage(sums);
  ReliabilityCounts counts(leads_, thresholds_);
  for (const std::int64_t block : blocks_) counts.open(block);
  for (const Kept& f : forecasts_)
    counts.add(calibration, f.lead, f.block, {f.base, f.probability, f.observed, area_});
  counts.reduce(comm);
  fit_isotonic(calibration, counts);
  return calibration;
}

} // namespace pluvia
