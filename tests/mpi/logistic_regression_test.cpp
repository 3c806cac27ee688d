#include "pluvia/model/logistic_regression.hpp"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

using namespace pluvia;

namespace {

double inverse_logit(double x) {
  return 1 / (1 + std::exp(-x));
}

/// Rows of a known model: logit p = logit c + 0.3 + 0.5 z(logit c) + 1.2 x_0 - 0.7 x_1; x_2 says nothing.
RegressionRows truth(std::size_t count, int rank, int ranks) {
  RegressionRows rows{3, 2, {}, {}, {}, {}};
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0, 1);
  for (std::size_t row = 0; row < count; ++row) {
    const double x[3] = {normal(random), normal(random), normal(random)}, climate = normal(random) - 1,
                 u = uniform(random);
    const double eta = climate + 0.3 + 0.5 * (climate + 1) + 1.2 * x[0] - 0.7 * x[1];
    if (static_cast<int>(row % static_cast<std::size_t>(ranks)) != rank) continue;
    for (const double value : x) rows.x.push_back(static_cast<float>(10 + 3 * value));
    rows.climatology.push_back(static_cast<float>(inverse_logit(climate)));
    rows.climatology.push_back(0.01F); // never observed
    rows.observed.push_back(u < inverse_logit(eta) ? 1 : 0);
    rows.weight.push_back(1);
  }
  return rows;
}

} // namespace

TEST(LogisticRegression, RecoversTheModelThatMadeTheData) {
  const Communicator self(MPI_COMM_SELF);
  const auto fitted = fit_logistic_regression(self, truth(40000, 0, 1));
  const double expected[] = {0.3, 0.5, 1.2, -0.7, 0};
  for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(fitted.coefficients[0][i], expected[i], 0.06) << i;
}

TEST(LogisticRegression, HasTheSameBitsOnAnyNumberOfRanks) {
  const Communicator world(MPI_COMM_WORLD), self(MPI_COMM_SELF);
  const auto whole = fit_logistic_regression(self, truth(3000, 0, 1));
  const auto shared = fit_logistic_regression(world, truth(3000, world.rank(), world.size()));
  EXPECT_EQ(shared.coefficients, whole.coefficients);
}

TEST(LogisticRegression, WithoutDataItIsTheClimatology) {
  const Communicator world(MPI_COMM_WORLD);
  const auto fitted = fit_logistic_regression(world, RegressionRows{3, 2, {}, {}, {}, {}});
  const std::vector<float> predictors{1, 2, 3, std::nanf(""), 0, 0}, climatology{0.3F, 0.4F, 0.1F, 0.05F};
  const auto p = predict(fitted, predictors, climatology);
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(p[i], climatology[i], 1e-6);
}

TEST(LogisticRegression, NeverObservedEventsBecomeRarerNotImpossible) {
  const Communicator self(MPI_COMM_SELF);
  const auto fitted = fit_logistic_regression(self, truth(40000, 0, 1));
  const std::vector<float> predictors{10, 10, 10}, climatology{0.5F, 0.01F};
  const auto p = predict(fitted, predictors, climatology);
  EXPECT_GT(p[1], 0);
  EXPECT_LT(p[1], 0.001);
}

TEST(LogisticRegression, UnknownPredictorsCountAsAverageOnes) {
  const Communicator self(MPI_COMM_SELF);
  const auto fitted = fit_logistic_regression(self, truth(5000, 0, 1));
  const auto mean = static_cast<float>(fitted.predictors[0].mean);
  const std::vector<float> unknown{std::nanf(""), 10, 10}, average{mean, 10, 10}, climatology{0.2F, 0.01F};
  EXPECT_NEAR(predict(fitted, unknown, climatology)[0], predict(fitted, average, climatology)[0], 1e-6);
  const std::vector<float> high{mean + 3, 10, 10};
  EXPECT_GT(predict(fitted, high, climatology)[0], predict(fitted, average, climatology)[0] + 0.1);
}
