#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Training cells of one lead time, pooled over the domain.
struct RegressionRows {
  int predictors = 0, thresholds = 0;
  std::vector<float> x;           ///< [rows x predictors]; NaN = unknown
  std::vector<float> climatology; ///< [rows x thresholds], P(amount >= threshold)
  std::vector<std::int8_t> observed;
  std::vector<float> weight;
};

/// One logistic regression per threshold around the climatology c_k:
///   logit P(amount >= threshold_k) = logit c_k + b_0 + b_1 z(logit c_k) + sum_j b_(j+1) z(x_j),
/// z = (x - mean) / standard deviation, 0 where unknown. With all b = 0 it is the climatology, and the ridge
/// penalty pulls it there where there are few events. A plain value, the same on every rank.
struct LogisticRegression {
  struct Standard {
    double mean = 0, scale = 1;
  };
  std::vector<Standard> predictors;              ///< by predictor
  std::vector<Standard> log_odds;                ///< by threshold
  std::vector<std::vector<double>> coefficients; ///< by threshold: b_0, b_1, ...
};

/// Maximum likelihood with the penalty ridge / 2 |b|^2 by Newton's method (iteratively reweighted least
/// squares; McCullagh and Nelder 1989, Generalized Linear Models, section 2.5), the step halved where the
/// likelihood falls. Sums are order-free: the same bits on any number of ranks. Collective. Cost: rows x
/// (predictors + 2)^2 / 2 per threshold and step.
LogisticRegression fit_logistic_regression(const Communicator& comm, const RegressionRows& rows,
                                           double ridge = 1);

/// P(amount >= threshold) as [thresholds x cells], non-increasing with the threshold, from predictors
/// [cells x predictors] and the climatology [thresholds x cells]. Local; each cell by itself.
std::vector<float> predict(const LogisticRegression& regression, std::span<const float> predictors,
                           std::span<const float> climatology);

} // namespace pluvia
