#include "pluvia/verify/scores.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"

using namespace pluvia;

namespace {

constexpr Time day = 86400;

double find(const std::vector<Score>& scores, int system, int lead, int threshold, const std::string& name) {
  for (const Score& s : scores)
    if (s.system == system && s.lead == lead && s.threshold == threshold && s.name == name) return s.value;
  ADD_FAILURE() << "no score " << name;
  return 0;
}

// Random forecasts with some skill for two systems, two leads, two thresholds over some days; `keep` selects
// cells.
template <class Keep> ScoreTable random_table(int days, Keep keep) {
  ScoreTable table({"pluvia", "climatology"}, {6, 12}, {1, 5});
  std::mt19937 random(11);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (int d = 0; d < days; ++d)
    for (int lead = 0; lead < 2; ++lead) {
      std::vector<std::vector<float>> all(2);
      std::vector<std::int8_t> observed;
      std::vector<float> area;
      std::vector<bool> kept;
      std::vector<float> p1, p2, c1, c2;
      for (int cell = 0; cell < 300; ++cell) {
        const float q = uniform(random), u = uniform(random);
        const auto o = static_cast<std::int8_t>((u < q ? 1 : 0) + (u < q * q ? 1 : 0));
        const float a = 0.3F + 0.7F * uniform(random);
        if (!keep(d, cell)) continue;
        p1.push_back(cell % 31 == 0 ? std::nanf("") : q);
        p2.push_back(q * q);
        c1.push_back(0.5F), c2.push_back(0.333F);
        observed.push_back(cell % 29 == 0 ? std::int8_t{-1} : o);
        area.push_back(a);
      }
      p1.insert(p1.end(), p2.begin(), p2.end());
      c1.insert(c1.end(), c2.begin(), c2.end());
      const std::vector<std::vector<float>> forecasts{p1, c1};
      table.add(lead, d * day + 6 * 3600, forecasts, observed, area);
    }
  return table;
}

} // namespace

TEST(Scores, AreThoseOfAHandCase) {
  // Ten cells of equal area: f = 0.8 five times with four events, f = 0.3 five times with one.
  ScoreTable table({"pluvia", "climatology"}, {6}, {1});
  const std::vector<std::vector<float>> forecasts{
      {0.8F, 0.8F, 0.8F, 0.8F, 0.8F, 0.3F, 0.3F, 0.3F, 0.3F, 0.3F}, std::vector<float>(10, 0.5F)};
  const std::vector<std::int8_t> observed{1, 1, 1, 1, 0, 1, 0, 0, 0, 0};
  table.add(0, day, forecasts, observed, std::vector<float>(10, 1.0F));
  const auto scores = all_scores(table);
  const auto score = [&](const std::string& name) { return find(scores, 0, 0, 0, name); };
  EXPECT_NEAR(score("BASER"), 0.5, 1e-12);
  EXPECT_NEAR(score("BRIER"), (4 * 0.04 + 0.64 + 0.49 + 4 * 0.09) / 10, 1e-12);
  // Bins [0.8, 0.9) and [0.3, 0.4), midpoints 0.85 and 0.35, frequencies 0.8 and 0.2.
  EXPECT_NEAR(score("RELIABILITY"), 0.5 * 0.05 * 0.05 + 0.5 * 0.15 * 0.15, 1e-12);
  EXPECT_NEAR(score("RESOLUTION"), 0.09, 1e-12);
  EXPECT_NEAR(score("UNCERTAINTY"), 0.25, 1e-12);
  EXPECT_NEAR(score("BRIER_MET"), score("RELIABILITY") - score("RESOLUTION") + score("UNCERTAINTY"), 1e-12);
  EXPECT_NEAR(score("BSS"), 1 - 0.165 / 0.25, 1e-12);
  EXPECT_NEAR(score("ROC_AUC"), (16 + 0.5 * (4 * 1 + 1 * 4)) / 25, 1e-12);
  EXPECT_NEAR(score("PODY_P050"), 0.8, 1e-12);
  EXPECT_NEAR(score("FAR_P050"), 0.2, 1e-12);
  EXPECT_NEAR(score("CSI_P050"), 4.0 / 6, 1e-12);
  EXPECT_NEAR(score("FBIAS_P050"), 1, 1e-12);
  EXPECT_NEAR(score("GSS_P050"), (4 - 2.5) / (6 - 2.5), 1e-12);
  EXPECT_NEAR(score("CSI_PBEST"), 4.0 / 6, 1e-12);
  EXPECT_NEAR(score("P_BEST"), 0.301, 1e-12); // the lowest probability that separates the two
  // a = 0.5: expense 0.5 * 0.5 + 0.1, climate 0.5, perfect 0.25.
  EXPECT_NEAR(score("ECLV_A500"), (0.5 - 0.35) / 0.25, 1e-12);
  EXPECT_NEAR(find(scores, 0, 0, -1, "CRPS"), 0.5 * 0.165, 1e-12); // one threshold: width (1 - 0) / 2
  EXPECT_EQ(scores.front().n_valid, 10);
}

TEST(Scores, CrpsIsTheIntegralOfTheBrierScore) {
  // The distribution function falls linearly from 1 at 0 to 0 at 4 mm; 4 mm is observed nowhere, 0
  // everywhere: CRPS = integral of (1 - x / 4)^2, approached as thresholds fill the axis. The rule sets BS(0)
  // = 0.
  std::vector<double> thresholds;
  std::vector<std::vector<float>> forecasts(1);
  for (int i = 1; i <= 400; ++i) {
    thresholds.push_back(0.01 * i);
    forecasts[0].push_back(static_cast<float>(1 - 0.01 * i / 4));
  }
  ScoreTable table({"climatology"}, {6}, thresholds);
  table.add(0, day, forecasts, std::vector<std::int8_t>{0}, std::vector<float>{1});
  EXPECT_NEAR(find(all_scores(table), 0, 0, -1, "CRPS"), 4.0 / 3, 0.006);
  const auto widths = crps_widths({0.2, 1, 5});
  EXPECT_NEAR(widths[0], 0.5, 1e-12);
  EXPECT_NEAR(widths[1], 2.4, 1e-12);
  EXPECT_NEAR(widths[2], 2, 1e-12);
}

TEST(Scores, MurphysPartitionAddsUpAndRocIsTheMannWhitneyStatistic) {
  const ScoreTable table = random_table(6, [](int, int) { return true; });
  for (const Score& s : all_scores(table, 0)) {
    if (s.name != "BRIER_MET") continue;
    const auto scores = all_scores(table, 0);
    const auto part = [&](const char* name) { return find(scores, s.system, s.lead, s.threshold, name); };
    EXPECT_NEAR(s.value, part("RELIABILITY") - part("RESOLUTION") + part("UNCERTAINTY"), 1e-12);
    EXPECT_NEAR(part("BSS_SMPL"), 1 - s.value / part("UNCERTAINTY"), 1e-12);
  }
  // Every pair of an event and a non-event, directly.
  const ForecastHistogram& h = table.histogram(0, 0, 0);
  double won = 0, pairs = 0;
  for (std::size_t a = 0; a <= 1000; ++a)
    for (std::size_t b = 0; b <= 1000; ++b) {
      const double weight = static_cast<double>(h.events[a]) * static_cast<double>(h.weight[b] - h.events[b]);
      pairs += weight;
      won += weight * (a > b ? 1 : a == b ? 0.5 : 0);
    }
  EXPECT_NEAR(roc_area(h), won / pairs, 1e-12);
  EXPECT_GT(roc_area(h), 0.7);
  EXPECT_NEAR(roc_area(table.histogram(1, 0, 0)), 0.5, 1e-12);
}

TEST(Scores, FractionsForgiveSmallDisplacements) {
  // One wet cell, forecast with certainty three cells beside where it falls.
  const Communicator world(MPI_COMM_WORLD);
  const Rect domain{0, 71, 0, 71};
  std::vector<float> forecast(71 * 71, 0.0F);
  std::vector<std::int8_t> observed(71 * 71, 0);
  forecast[35 * 71 + 35] = 1;
  observed[35 * 71 + 38] = 1;
  const auto table_of = [&](const Rect& tile) {
    const Rect held = intersect(domain, {tile.y0 - ScoreTable::reach, tile.y1 + ScoreTable::reach,
                                         tile.x0 - ScoreTable::reach, tile.x1 + ScoreTable::reach});
    std::vector<float> p;
    std::vector<std::int8_t> o;
    for (Index y = held.y0; y < held.y1; ++y)
      for (Index x = held.x0; x < held.x1; ++x) {
        p.push_back(forecast[static_cast<std::size_t>(y * 71 + x)]);
        o.push_back(observed[static_cast<std::size_t>(y * 71 + x)]);
      }
    ScoreTable table({"pluvia"}, {6}, {1});
    table.add_neighbourhoods(0, day, p, o, held, tile,
                             std::vector<float>(static_cast<std::size_t>(tile.cells()), 1));
    return table;
  };
  const ScoreTable whole = table_of(domain);
  const auto skill = [&](int width) { return fractions_skill(whole.fractions_of_day(0, 0, 0, width)); };
  // Boxes of n x n shifted by 3 share n (n - 3) cells: FSS = (n - 3) / n, up to the rounding of sums.
  EXPECT_NEAR(skill(0), 2.0 / 5, 1e-5);
  EXPECT_NEAR(skill(1), 10.0 / 13, 1e-5);
  EXPECT_NEAR(skill(2), 22.0 / 25, 1e-4);
  const GridShape shape = choose_grid_shape(71, 71, 1, world.size());
  ScoreTable mine = table_of(Tiling(71, 71, 1, shape.rows, shape.cols).tile(world.rank(), 0));
  mine.reduce(world);
  EXPECT_EQ(mine.to_json(), whole.to_json());
}

TEST(Scores, PartialResultsMergeExactly) {
  const Communicator world(MPI_COMM_WORLD);
  const ScoreTable whole = random_table(5, [](int, int) { return true; });
  ScoreTable early = random_table(5, [](int d, int) { return d < 2; });
  early.merge(ScoreTable::from_json(random_table(5, [](int d, int) { return d >= 2; }).to_json()));
  EXPECT_EQ(early, whole);
  EXPECT_EQ(whole.forecasts(), 10) << "on five days, of two leads that end together";
  EXPECT_EQ(early.forecasts(), whole.forecasts());
  EXPECT_THROW(early.merge(random_table(5, [](int d, int) { return d == 4; })), Error) << "counted twice";
  ScoreTable mine = random_table(5, [&](int, int cell) { return cell % world.size() == world.rank(); });
  mine.reduce(world);
  EXPECT_EQ(mine.n_valid(0), whole.n_valid(0));
  EXPECT_EQ(mine.to_json(), whole.to_json());
  ScoreTable other({"pluvia"}, {6}, {1});
  EXPECT_THROW(other.merge(whole), Error);
  EXPECT_THROW(ScoreTable::from_json("{}"), Error);
}

TEST(Scores, CountOnlyCellsThatAllSystemsForecast) {
  const ScoreTable table = random_table(1, [](int, int) { return true; });
  std::int64_t expected = 0;
  for (int cell = 0; cell < 300; ++cell) expected += cell % 31 != 0 && cell % 29 != 0 ? 1 : 0;
  EXPECT_EQ(table.n_valid(0), expected);
  for (int s = 0; s < 2; ++s) {
    std::int64_t weight = 0, w0 = 0;
    for (const auto w : table.histogram(s, 1, 1).weight) weight += w;
    for (const auto w : table.histogram(0, 1, 0).weight) w0 += w;
    EXPECT_EQ(weight, w0);
  }
}

TEST(Scores, IntervalsCoverTheValueAndNeedDays) {
  const auto interval = [](const ScoreTable& table, const std::string& name) {
    for (const Score& s : all_scores(table, 400))
      if (s.name == name && s.system == 0) return s;
    return Score{};
  };
  const ScoreTable many = random_table(24, [](int, int) { return true; });
  const Score brier = interval(many, "BRIER"), skill = interval(many, "BSS");
  EXPECT_LT(brier.lower, brier.value);
  EXPECT_GT(brier.upper, brier.value);
  EXPECT_GT(skill.lower, 0);
  // Independent cells: the interval is that of the mean of about 24 x 300 squared errors, sd about 0.2.
  EXPECT_NEAR(brier.upper - brier.lower, 2 * 1.96 * 0.2 / std::sqrt(24 * 281.0), 0.006);
  EXPECT_TRUE(std::isnan(interval(random_table(1, [](int, int) { return true; }), "BRIER").lower));
}

TEST(Scores, UndefinedIsNotANumber) {
  ScoreTable table({"pluvia", "climatology"}, {6}, {1});
  table.add(0, day, std::vector<std::vector<float>>{{0.0F}, {0.0F}}, std::vector<std::int8_t>{0},
            std::vector<float>{1});
  const auto scores = all_scores(table);
  EXPECT_TRUE(std::isnan(find(scores, 0, 0, 0, "BSS")));
  EXPECT_TRUE(std::isnan(find(scores, 0, 0, 0, "ROC_AUC")));
  EXPECT_TRUE(std::isnan(find(scores, 0, 0, 0, "CSI_P050")));
  EXPECT_EQ(find(scores, 0, 0, 0, "BRIER"), 0);
}
