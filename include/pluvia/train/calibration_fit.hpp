#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/io/time.hpp"
#include "pluvia/model/calibration.hpp"

namespace pluvia {

/// Validation forecasts of this rank's cells, kept while a calibration is fitted, which passes over them
/// twice.
class CalibrationFit {
public:
  /// `area`: relative, of each cell.
  CalibrationFit(int leads, int thresholds, std::vector<float> area);

  /// The end of a window of which some rank adds a forecast. Local; the same on all ranks.
  void expect(Time end) { blocks_.push_back(block_of(end)); }
  /// One lead of a forecast as LabelledForecast has it, whose window ends then. Local.
  void add(int lead, Time end, std::vector<float> base, std::vector<float> probability,
           std::vector<std::int8_t> observed);
  /// Of all ranks' forecasts, with the same bits whoever added them. Collective.
  Calibration fit(const Communicator& comm) const;

private:
  struct Kept {
    int lead;
    std::int64_t block;
    std::vector<float> base, probability;
    std::vector<std::int8_t> observed;
  };
  static std::int64_t block_of(Time end) { return end / (6 * 3600); } ///< six hours
  int leads_, thresholds_;
  std::vector<float> area_;
  std::vector<std::int64_t> blocks_;
  std::vector<Kept> forecasts_;
};

} // namespace pluvia
