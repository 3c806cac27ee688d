#pragma once
#include <vector>

namespace pluvia {

/// Ordered classes of an amount: class k holds thresholds[k-1] <= amount < thresholds[k]; K + 1 classes.
/// Returns -1 for NaN. Local.
int amount_class(float amount_mm, const std::vector<double>& thresholds_mm);

} // namespace pluvia
