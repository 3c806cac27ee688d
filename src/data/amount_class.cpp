#include "pluvia/data/amount_class.hpp"

#include <cmath>

namespace pluvia {

int amount_class(float amount_mm, const std::vector<double>& thresholds_mm) {
  if (std::isnan(amount_mm)) return -1;
  // Thresholds are compared as f32, as amounts are stored: 0.2 mm in a file must reach a threshold of 0.2 mm.
  int k = 0;
  for (const double threshold : thresholds_mm) k += amount_mm >= static_cast<float>(threshold) ? 1 : 0;
  return k;
}

} // namespace pluvia
