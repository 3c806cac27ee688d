#include "pluvia/model/logistic_regression.hpp"

#include <algorithm>
#include <cmath>

#include "pluvia/comm/reduce_sums.hpp"

namespace pluvia {

namespace {

constexpr int newton_steps = 30;

double log_odds(double p) {
  p = std::clamp(p, 1e-6, 1 - 1e-6);
  return std::log(p / (1 - p));
}

double standardised(double value, const LogisticRegression::Standard& by) {
  return std::isnan(value) ? 0 : std::clamp((value - by.mean) / by.scale, -8.0, 8.0);
}

/// Mean and standard deviation of what is known, over all ranks, of `columns` interleaved columns.
template <class Value>
std::vector<LogisticRegression::Standard> standards(const Communicator& comm, std::size_t rows, int columns,
                                                    Value value) {
  const auto n = static_cast<std::size_t>(columns);
  const auto sum = [&](auto term) {
    std::vector<FixedSum> sums(2 * n);
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t j = 0; j < n; ++j) {
        const double x = value(row, j);
        if (std::isnan(x)) continue;
        sums[j].add(term(x, j));
        sums[n + j].add(1);
      }
    all_reduce(comm, sums);
    return sums;
  };
  std::vector<LogisticRegression::Standard> out(n);
  const auto means = sum([](double x, std::size_t) { return x; });
  for (std::size_t j = 0; j < n; ++j)
    if (means[n + j].value() > 0) out[j].mean = means[j].value() / means[n + j].value();
  const auto squares = sum([&](double x, std::size_t j) { return (x - out[j].mean) * (x - out[j].mean); });
  for (std::size_t j = 0; j < n; ++j) {
    const double variance = squares[n + j].value() > 0 ? squares[j].value() / squares[n + j].value() : 0;
    if (variance > 1e-12) out[j].scale = std::sqrt(variance);
  }
  return out;
}

/// Solves the symmetric positive definite system a x = b of order n in place (Cholesky); the solution is in
/// b.
void solve(std::vector<double>& a, std::vector<double>& b) {
  const std::size_t n = b.size();
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i * n + j];
      for (std::size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = i == j ? std::sqrt(sum) : sum / a[j * n + j];
    }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
}

/// The penalised log-likelihood with its gradient and (negative) Hessian.
struct Likelihood {
  double value = 0;
  std::vector<double> gradient, hessian;
};

} // namespace

LogisticRegression fit_logistic_regression(const Communicator& comm, const RegressionRows& rows,
                                           double ridge) {
  const std::size_t count = rows.observed.size(), n = static_cast<std::size_t>(rows.predictors) + 2;
  const auto predictors = static_cast<std::size_t>(rows.predictors),
             thresholds = static_cast<std::size_t>(rows.thresholds);
  LogisticRegression out;
  out.predictors = standards(comm, count, rows.predictors,
                             [&](std::size_t row, std::size_t j) { return rows.x[row * predictors + j]; });
  out.log_odds = standards(comm, count, rows.thresholds, [&](std::size_t row, std::size_t k) {
    return log_odds(rows.climatology[row * thresholds + k]);
  });

  std::vector<double> design(count * n); // [rows x n], column 1 depends on the threshold
  for (std::size_t row = 0; row < count; ++row) {
    design[row * n] = 1;
    for (std::size_t j = 0; j < predictors; ++j)
      design[row * n + 2 + j] = standardised(rows.x[row * predictors + j], out.predictors[j]);
  }
  for (std::size_t k = 0; k < thresholds; ++k) {
    for (std::size_t row = 0; row < count; ++row)
      design[row * n + 1] = standardised(log_odds(rows.climatology[row * thresholds + k]), out.log_odds[k]);
    const auto evaluate = [&](const std::vector<double>& b) {
      const std::size_t triangle = n * (n + 1) / 2;
      std::vector<FixedSum> sums(1 + n + triangle);
#pragma omp parallel
      {
        std::vector<FixedSum> own(sums.size());
#pragma omp for schedule(static)
        for (std::size_t row = 0; row < count; ++row) {
          const double* z = design.data() + row * n;
          double eta = log_odds(rows.climatology[row * thresholds + k]);
          for (std::size_t i = 0; i < n; ++i) eta += b[i] * z[i];
          const double p = 1 / (1 + std::exp(-eta)), o = rows.observed[row] > static_cast<int>(k) ? 1 : 0;
          const double weight = rows.weight[row], bend = weight * p * (1 - p);
          // log p or log(1 - p), without overflow
          const double signed_eta = o > 0 ? eta : -eta;
          own[0].add(weight * (std::min(signed_eta, 0.0) - std::log1p(std::exp(-std::abs(signed_eta)))));
          std::size_t next = 1 + n;
          for (std::size_t i = 0; i < n; ++i) {
            own[1 + i].add(weight * (o - p) * z[i]);
            for (std::size_t j = 0; j <= i; ++j) own[next++].add(bend * z[i] * z[j]);
          }
        }
#pragma omp critical
        for (std::size_t i = 0; i < sums.size(); ++i) {
          own[i].carry();
          sums[i].add(own[i]);
        }
      }
      all_reduce(comm, sums);
      Likelihood at{sums[0].value(), std::vector<double>(n), std::vector<double>(n * n)};
      std::size_t next = 1 + n;
      for (std::size_t i = 0; i < n; ++i) {
        at.value -= 0.5 * ridge * b[i] * b[i];
        at.gradient[i] = sums[1 + i].value() - ridge * b[i];
        for (std::size_t j = 0; j <= i; ++j)
          at.hessian[i * n + j] = at.hessian[j * n + i] = sums[next++].value();
        at.hessian[i * n + i] += ridge;
      }
      return at;
    };
    std::vector<double> b(n, 0.0);
    Likelihood here = evaluate(b);
    for (int step = 0; step < newton_steps; ++step) {
      std::vector<double> move = here.gradient;
      solve(here.hessian, move);
      Likelihood there;
      std::vector<double> next(n);
      double length = 1;
      for (int halving = 0; halving < 20; ++halving, length /= 2) {
        for (std::size_t i = 0; i < n; ++i) next[i] = b[i] + length * move[i];
        there = evaluate(next);
        if (there.value >= here.value) break;
      }
      if (there.value < here.value) break; // no way up is left: rounding
      double largest = 0;
      for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(next[i] - b[i]));
      b = next;
      here = std::move(there);
      if (largest < 1e-6) break;
    }
    out.coefficients.push_back(b);
  }
  return out;
}

std::vector<float> predict(const LogisticRegression& regression, std::span<const float> predictors,
                           std::span<const float> climatology) {
  const std::size_t count = regression.predictors.size(), thresholds = regression.coefficients.size(),
                    cells = climatology.size() / thresholds;
  std::vector<float> out(climatology.size());
#pragma omp parallel for schedule(static)
  for (std::size_t cell = 0; cell < cells; ++cell) {
    std::vector<double> z(count);
    for (std::size_t j = 0; j < count; ++j)
      z[j] = standardised(predictors[cell * count + j], regression.predictors[j]);
    float below = 1;
    for (std::size_t k = 0; k < thresholds; ++k) {
      const std::vector<double>& b = regression.coefficients[k];
      const double climate = log_odds(climatology[k * cells + cell]);
      double eta = climate + b[0] + b[1] * standardised(climate, regression.log_odds[k]);
      for (std::size_t j = 0; j < count; ++j) eta += b[2 + j] * z[j];
      below = std::min(below, static_cast<float>(1 / (1 + std::exp(-eta))));
      out[k * cells + cell] = below;
    }
  }
  return out;
}

} // namespace pluvia
