#include "pluvia/model/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"

using namespace pluvia;

namespace {

constexpr int leads = 2, thresholds = 3;

struct Data {
  std::vector<float> climatology, probability, area;
  std::vector<std::int8_t> observed;
  LabelledForecast view() const { return {climatology, probability, observed, area}; }
};

// Cells whose true exceedance probabilities q, q^2, q^3 are known; `distort` makes the forecast of the truth.
template <class Distort> Data synthetic(std::size_t cells, unsigned seed, Distort distort) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  Data d{std::vector<float>(thresholds * cells), std::vector<float>(thresholds * cells), {}, {}};
  for (std::size_t cell = 0; cell < cells; ++cell) {
    const float q = uniform(random), u = uniform(random);
    int reached = 0;
    for (std::size_t k = 0; k < thresholds; ++k) {
      const float truth = std::pow(q, static_cast<float>(k + 1));
      d.climatology[k * cells + cell] = 1.0F / static_cast<float>(k + 2);
      d.probability[k * cells + cell] = distort(truth, d.climatology[k * cells + cell]);
      reached += u < truth ? 1 : 0;
    }
    d.observed.push_back(static_cast<std::int8_t>(cell % 17 == 0 ? -1 : reached));
    d.area.push_back(0.5F + 0.5F * uniform(random));
  }
  return d;
}

double brier(const Data& d, const std::vector<float>& p, int k) {
  double sum = 0, weight = 0;
  const std::size_t cells = d.observed.size();
  for (std::size_t cell = 0; cell < cells; ++cell) {
    if (d.observed[cell] < 0) continue;
    const double e = p[static_cast<std::size_t>(k) * cells + cell] - (d.observed[cell] > k ? 1.0 : 0.0);
    sum += d.area[cell] * e * e;
    weight += d.area[cell];
  }
  return sum / weight;
}

constexpr std::int64_t long_range = 100; // blocks of six hours: enough for what is found to be believed

/// Both stages, as if the same was forecast and observed in every block of the validation range.
Calibration fit(const Communicator& comm, const Data& data, std::int64_t blocks = long_range) {
  ShrinkageSums first(leads, thresholds);
  for (std::int64_t block = 0; block < blocks; ++block)
    for (int lead = 0; lead < leads; ++lead) first.add(lead, block, data.view());
  first.reduce(comm);
  Calibration c = fit_shrinkage(first);
  ReliabilityCounts second(leads, thresholds);
  for (std::int64_t block = 0; block < std::min<std::int64_t>(blocks, 2); ++block)
    for (int lead = 0; lead < leads; ++lead) second.add(c, lead, block, data.view());
  second.reduce(comm);
  fit_isotonic(c, second);
  return c;
}

} // namespace

TEST(FixedSum, DoesNotDependOnOrder) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal(0, 100);
  std::vector<double> terms(2000);
  for (double& term : terms) term = normal(random);
  FixedSum forward, backward;
  double plain = 0;
  for (const double term : terms) forward.add(term), plain += term;
  for (auto it = terms.rbegin(); it != terms.rend(); ++it) backward.add(*it), backward.carry();
  forward.carry();
  EXPECT_EQ(forward, backward);
  EXPECT_NEAR(forward.value(), plain, 1e-8);
  FixedSum negative;
  negative.add(-0.75);
  EXPECT_EQ(negative.value(), -0.75);
}

TEST(Calibration, PoolsAdjacentViolators) {
  const std::vector<double> values{0.1, 0.4, 0.2, 0.3, 0.9, 0.8}, weights{1, 1, 2, 1, 1, 3};
  const auto fitted = isotonic(values, weights);
  const std::vector<double> expected{0.1, 0.8 / 3, 0.8 / 3, 0.3, 3.3 / 4, 3.3 / 4};
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(fitted[i], expected[i], 1e-15);
}

TEST(Calibration, LowersTheBrierScoreOfDistortedForecasts) {
  const Communicator self(MPI_COMM_SELF);
  const auto overconfident = [](float q, float) { return q > 0.5F ? 1 - 0.3F * (1 - q) : 0.3F * q; };
  const auto noisy = [](float q, float clim) { return std::clamp(clim + 2 * (q - clim), 0.0F, 1.0F); };
  for (const Data& data : {synthetic(20000, 1, overconfident), synthetic(20000, 2, noisy)}) {
    const Calibration c = fit(self, data);
    std::vector<float> p = data.probability;
    calibrate(c, 1, data.climatology, p);
    for (int k = 0; k < thresholds; ++k)
      EXPECT_LT(brier(data, p, k), brier(data, data.probability, k) - 1e-3);
    for (std::size_t cell = 0; cell < data.observed.size(); ++cell)
      for (std::size_t k = 1; k < thresholds; ++k)
        ASSERT_LE(p[k * data.observed.size() + cell], p[(k - 1) * data.observed.size() + cell]);
  }
}

TEST(Calibration, FindsTheShrinkage) {
  // Forecasts twice as far from climatology as the truth, nowhere clipped: a = 1/2.
  const Communicator self(MPI_COMM_SELF);
  Data data = synthetic(40000, 3, [](float q, float clim) { return clim + 2 * (q - clim); });
  ShrinkageSums sums(leads, thresholds);
  for (std::int64_t block = 0; block < long_range; ++block) sums.add(0, block, data.view());
  const Calibration c = fit_shrinkage(sums);
  for (std::size_t k = 0; k < thresholds; ++k) EXPECT_NEAR(c.shrinkage[k], 0.5, 0.02);
  for (std::size_t k = 0; k < thresholds; ++k)
    EXPECT_EQ(c.shrinkage[thresholds + k], 1); // no data: unchanged
}

TEST(Calibration, ForecastsWithoutSkillBecomeClimatology) {
  const Communicator self(MPI_COMM_SELF);
  Data data = synthetic(20000, 4, [](float, float clim) { return clim; });
  for (std::size_t i = 0; i < data.probability.size(); ++i)
    data.probability[i] += (i % 2 == 0 ? 0.2F : -0.2F);
  ShrinkageSums sums(leads, thresholds);
  for (std::int64_t block = 0; block < long_range; ++block) sums.add(0, block, data.view());
  for (std::size_t k = 0; k < thresholds; ++k) EXPECT_LT(fit_shrinkage(sums).shrinkage[k], 0.05);
}

TEST(Calibration, PerfectForecastsStayAsTheyAre) {
  const Communicator self(MPI_COMM_SELF);
  // Outcomes exactly as frequent as forecast: 10 probabilities, 1000 cells each.
  Data data;
  for (int tenth = 0; tenth < 10; ++tenth)
    for (int i = 0; i < 1000; ++i) {
      data.probability.push_back(static_cast<float>(tenth) / 10);
      data.observed.push_back(i < tenth * 100 ? 1 : 0);
    }
  data.climatology.assign(data.probability.size(), 0.45F);
  data.area.assign(data.probability.size(), 1);
  ShrinkageSums first(1, 1);
  for (std::int64_t block = 0; block < long_range; ++block) first.add(0, block, data.view());
  Calibration c = fit_shrinkage(first);
  EXPECT_NEAR(c.shrinkage[0], 1, 3e-3);
  ReliabilityCounts second(1, 1);
  second.add(c, 0, 0, data.view());
  second.add(c, 0, 1, data.view());
  fit_isotonic(c, second);
  std::vector<float> p = data.probability;
  calibrate(c, 0, data.climatology, p);
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(p[i], data.probability[i], 3e-3);
}

TEST(Calibration, TakesNoCurveThatFailsOnUnseenDays) {
  // On one day it rains more often than forecast, on the other less: a curve helps the day it was fitted to
  // alone.
  const Communicator self(MPI_COMM_SELF);
  const Data wet = synthetic(3000, 11, [](float q, float) { return 0.6F * q; });
  const Data dry = synthetic(3000, 12, [](float q, float) { return std::sqrt(q); });
  const auto curve = [](const Data& one, const Data& other) {
    Calibration c{1, thresholds, std::vector<float>(thresholds, 1.0F), std::vector<float>(thresholds, 0.01F),
                  std::vector<Calibration::Curve>(thresholds)};
    ReliabilityCounts counts(1, thresholds);
    counts.add(c, 0, 0, one.view());
    counts.add(c, 0, 1, other.view());
    fit_isotonic(c, counts);
    return c.curves[1];
  };
  EXPECT_TRUE(curve(wet, dry).from.empty());
  EXPECT_FALSE(curve(wet, wet).from.empty());
}

TEST(Calibration, BelievesWhatManyDaysShow) {
  // Forecasts twice as far from climatology as the truth: the same evidence repeated on more days moves them
  // further, from the network's own to half-way.
  const Data data = synthetic(5000, 8, [](float q, float clim) { return clim + 2 * (q - clim); });
  float last = 1;
  for (const std::int64_t blocks : {1, 4, 20, 100}) {
    ShrinkageSums sums(leads, thresholds);
    for (std::int64_t block = 0; block < blocks; ++block) sums.add(0, block, data.view());
    const float a = fit_shrinkage(sums).shrinkage[0];
    EXPECT_LT(a, last) << blocks;
    last = a;
  }
  EXPECT_LT(last, 0.55F);
}

TEST(Calibration, DoubtsWhatOneBlockAloneShows) {
  // Where one block of many makes shrinking pay, its gain stands on its jackknife variance.
  const Data perfect = synthetic(2000, 9, [](float q, float) { return q; });
  const Data useless = synthetic(2000, 10, [](float q, float clim) { return clim - 0.7F * (q - clim); });
  const auto fitted = [&](std::int64_t bad) {
    ShrinkageSums sums(1, thresholds);
    for (std::int64_t block = 0; block < 40; ++block)
      sums.add(0, block, block < bad ? useless.view() : perfect.view());
    return fit_shrinkage(sums);
  };
  const Calibration one = fitted(1), all = fitted(40);
  EXPECT_GT(one.noise[0], all.noise[0]);
  EXPECT_GT(one.shrinkage[0], 0.99F);
  EXPECT_LT(all.shrinkage[0], 0.1F);
}

TEST(Calibration, FewEventsGetNoCurve) {
  const Communicator self(MPI_COMM_SELF);
  const auto too_high = [](float q, float) { return std::sqrt(q); };
  const Calibration few = fit(self, synthetic(60, 5, too_high)); // below 200 events over both leads
  for (const auto& curve : few.curves) EXPECT_TRUE(curve.from.empty());
  const Calibration pooled = fit(self, synthetic(150, 5, too_high)); // only together above 200
  EXPECT_FALSE(pooled.curves[0].from.empty());
  EXPECT_EQ(pooled.curves[0].from, pooled.curves[thresholds].from);
}

TEST(Calibration, HasTheSameBitsWhenRanksSeeBlocksOfTheirOwn) {
  const Communicator world(MPI_COMM_WORLD), self(MPI_COMM_SELF);
  const Data data = synthetic(3000, 7, [](float q, float clim) { return clim + 1.5F * (q - clim); });
  constexpr std::int64_t blocks = 3; // fewer than some runs have ranks
  const auto fit_blocks = [&](const Communicator& comm) {
    const auto each = [&](auto& sums, auto&& add) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        sums.open(block);
        if (block % comm.size() == comm.rank()) add(block);
      }
      sums.reduce(comm);
    };
    ShrinkageSums first(leads, thresholds);
    each(first, [&](std::int64_t block) { first.add(0, block, data.view()); });
    Calibration c = fit_shrinkage(first);
    ReliabilityCounts second(leads, thresholds);
    each(second, [&](std::int64_t block) { second.add(c, 0, block, data.view()); });
    fit_isotonic(c, second);
    return to_json(c);
  };
  EXPECT_EQ(fit_blocks(world), fit_blocks(self));
}

TEST(Calibration, HasTheSameBitsOnAnyNumberOfRanks) {
  const Communicator world(MPI_COMM_WORLD), self(MPI_COMM_SELF);
  const Data all = synthetic(5000, 6, [](float q, float) { return q * q; });
  Data mine;
  for (std::size_t cell = 0; cell < 5000; ++cell)
    if (static_cast<int>(cell % static_cast<std::size_t>(world.size())) == world.rank()) {
      mine.observed.push_back(all.observed[cell]);
      mine.area.push_back(all.area[cell]);
    }
  for (std::size_t i = 0; i < all.probability.size(); ++i)
    if (static_cast<int>(i % 5000 % static_cast<std::size_t>(world.size())) == world.rank()) {
      mine.climatology.push_back(all.climatology[i]);
      mine.probability.push_back(all.probability[i]);
    }
  EXPECT_EQ(to_json(fit(world, mine)), to_json(fit(self, all)));
}

TEST(Calibration, SurvivesJson) {
  const Communicator self(MPI_COMM_SELF);
  const Calibration c = fit(self, synthetic(5000, 7, [](float q, float) { return q * q; }));
  const Calibration back = calibration_from_json(to_json(c));
  EXPECT_EQ(back.shrinkage, c.shrinkage);
  EXPECT_EQ(back.noise, c.noise);
  for (std::size_t i = 0; i < c.curves.size(); ++i) {
    EXPECT_EQ(back.curves[i].from, c.curves[i].from);
    EXPECT_EQ(back.curves[i].to, c.curves[i].to);
  }
  for (const char* broken : {"", "{}", R"({"leads":1,"thresholds":2,"shrinkage":[1],"curves":[]})"})
    EXPECT_THROW(calibration_from_json(broken), Error);
}
