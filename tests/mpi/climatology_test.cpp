#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/model/climatology.hpp"

using namespace pluvia;

namespace {

constexpr Time hour = 3600, day = 24 * hour;
constexpr int classes = 4;

// Hourly windows over some days, some cells missing, wetter in the south: the classes of the whole domain.
std::vector<ObservedWindow> observations(const Rect& domain, int days) {
  std::mt19937 random(7);
  std::vector<ObservedWindow> out;
  for (Time end = 6 * hour; end < days * day; end += hour) {
    ObservedWindow window{end, std::vector<std::int8_t>(static_cast<std::size_t>(domain.cells()))};
    for (Index y = 0; y < domain.y1; ++y)
      for (Index x = 0; x < domain.x1; ++x) {
        const bool missing = random() % 13 == 0;
        const auto k = (random() % 100) * (y > 20 ? 2 : 1) / 50;
        window.classes[static_cast<std::size_t>(y * domain.width() + x)] =
            static_cast<std::int8_t>(missing ? -1 : k);
      }
    out.push_back(window);
  }
  return out;
}

std::vector<ObservedWindow> crop(const std::vector<ObservedWindow>& all, const Rect& domain,
                                 const Rect& rect) {
  std::vector<ObservedWindow> out;
  for (const ObservedWindow& w : all) {
    ObservedWindow part{w.end, {}};
    for (Index y = rect.y0; y < rect.y1; ++y)
      for (Index x = rect.x0; x < rect.x1; ++x)
        part.classes.push_back(w.classes[static_cast<std::size_t>(y * domain.width() + x)]);
    out.push_back(part);
  }
  return out;
}

} // namespace

TEST(Climatology, AmountsFallIntoHalfOpenClasses) {
  const std::vector<double> thresholds{0.2, 1, 5};
  EXPECT_EQ(amount_class(0.0F, thresholds), 0);
  EXPECT_EQ(amount_class(0.2F, thresholds), 1); // 0.2 as stored in a file reaches 0.2
  EXPECT_EQ(amount_class(0.99F, thresholds), 1);
  EXPECT_EQ(amount_class(1.0F, thresholds), 2);
  EXPECT_EQ(amount_class(80.0F, thresholds), 3);
  EXPECT_EQ(amount_class(std::nanf(""), thresholds), -1);
}

TEST(Climatology, WindowsLieWhollyInTheRange) {
  const auto ends = whole_hour_windows({0, 8 * hour}, 6 * hour);
  EXPECT_EQ(ends, (std::vector<Time>{6 * hour, 7 * hour}));
  EXPECT_EQ(whole_hour_windows({1, 8 * hour}, 6 * hour), (std::vector<Time>{7 * hour}));
  EXPECT_EQ(whole_hour_windows({-hour, 5 * hour + 1}, 6 * hour), (std::vector<Time>{5 * hour}));
  EXPECT_TRUE(whole_hour_windows({0, 6 * hour}, 6 * hour).empty());
}

TEST(Climatology, TilesHaveTheBitsOfTheWholeDomain) {
  const Communicator world(MPI_COMM_WORLD), self(MPI_COMM_SELF);
  const Rect domain{0, 41, 0, 37};
  const auto all = observations(domain, 5);
  const Climatology whole = Climatology::from_windows(self, domain, domain, 6 * hour, classes, all);
  const GridShape shape = choose_grid_shape(domain.y1, domain.x1, 1, world.size());
  const Rect tile = Tiling(domain.y1, domain.x1, 1, shape.rows, shape.cols).tile(world.rank(), 0);
  const Climatology part = Climatology::from_windows(world, domain, tile, 6 * hour, classes,
                                                     crop(all, domain, Climatology::grown(tile, domain)));
  EXPECT_EQ(part.alpha(), whole.alpha());
  for (const Time end : {2 * day + 3 * hour, 3 * day, 3 * day + 23 * hour + 1200})
    for (const double most : {-1.0, 0.0, 0.9}) { // of the days left out; below 0: nothing is
      const DayDraw days{most, 4, 2};
      const auto expected = most < 0 ? whole.probabilities(end) : whole.probabilities_without(end, days);
      const auto got = most < 0 ? part.probabilities(end) : part.probabilities_without(end, days);
      ASSERT_EQ(got.size(), static_cast<std::size_t>(tile.cells() * classes));
      for (Index y = tile.y0; y < tile.y1; ++y)
        for (Index x = tile.x0; x < tile.x1; ++x) {
          float sum = 0;
          for (Index k = 0; k < classes; ++k) {
            const float p =
                got[static_cast<std::size_t>(((y - tile.y0) * tile.width() + x - tile.x0) * classes + k)];
            ASSERT_EQ(p, expected[static_cast<std::size_t>((y * domain.width() + x) * classes + k)]);
            ASSERT_GT(p, 0);
            sum += p;
          }
          ASSERT_NEAR(sum, 1, 1e-6);
        }
    }
}

TEST(Climatology, ADrawOfDaysLeavesOutWholeDays) {
  const Communicator self(MPI_COMM_SELF);
  const Rect domain{0, 31, 0, 27};
  const auto all = observations(domain, 12);
  const Climatology whole = Climatology::from_windows(self, domain, domain, 6 * hour, classes, all);
  const Time end = 20 * day; // far from all windows, so that only the draw leaves any out
  double days_kept = 0;
  constexpr int draws = 30;
  for (std::uint64_t sample = 0; sample < draws; ++sample) {
    const DayDraw draw{0.8, 5, sample};
    const double share = draw.most * random_uniform(draw.seed, RandomPurpose::climatology, 0, sample);
    auto kept = all;
    std::erase_if(kept, [&](const ObservedWindow& w) {
      const auto number = static_cast<std::uint64_t>(w.end / day);
      return random_uniform(draw.seed, RandomPurpose::climatology, 1 + number, sample) < share;
    });
    if (kept.empty()) continue; // the test below
    days_kept += static_cast<double>(kept.size()) / static_cast<double>(all.size());
    const Climatology part = Climatology::from_windows(self, domain, domain, 6 * hour, classes, kept);
    if (part.alpha() != whole.alpha()) continue; // chosen from fewer windows
    EXPECT_EQ(whole.probabilities_without(end, draw), part.probabilities(end)) << "sample " << sample;
  }
  EXPECT_NEAR(days_kept / draws, 0.6, 0.12);
}

TEST(Climatology, ADrawThatLeavesNothingLeavesAll) {
  const Communicator self(MPI_COMM_SELF);
  const Rect domain{0, 21, 0, 17};
  const auto one_day = observations(domain, 1);
  const Climatology climatology = Climatology::from_windows(self, domain, domain, 6 * hour, classes, one_day);
  for (std::uint64_t sample = 0; sample < 8; ++sample)
    EXPECT_EQ(climatology.probabilities_without(20 * day, {0.9, 5, sample}),
              climatology.probabilities_without(20 * day));
}

TEST(Climatology, IsTheFormulaOfTheDocumentation) {
  // Directly in f64 over the two-dimensional kernel, for one cell near the edge.
  const Communicator self(MPI_COMM_SELF);
  const Rect domain{0, 41, 0, 37};
  const auto all = observations(domain, 5);
  const Climatology climatology = Climatology::from_windows(self, domain, domain, 6 * hour, classes, all);
  const Time end = 3 * day; // hour 0, neighbours 23 and 1
  double norm = 0, n_k[classes] = {}, big_n[classes] = {};
  for (int d = -12; d <= 12; ++d) norm += std::exp(-d * d / 32.0);
  const Index cy = 3, cx = 30;
  for (const ObservedWindow& w : all) {
    const Time h = (w.end / hour) % 24;
    for (Index y = 0; y < domain.y1; ++y)
      for (Index x = 0; x < domain.x1; ++x) {
        const int k = w.classes[static_cast<std::size_t>(y * domain.width() + x)];
        if (k < 0) continue;
        big_n[k] += 1;
        const double dy = static_cast<double>(y - cy), dx = static_cast<double>(x - cx);
        if (std::abs(dy) > 12 || std::abs(dx) > 12 || (h != 23 && h != 0 && h != 1)) continue;
        n_k[k] += std::exp(-(dy * dy + dx * dx) / 32) / (norm * norm);
      }
  }
  double n = 0, big = 0;
  for (int k = 0; k < classes; ++k) n += n_k[k], big += big_n[k];
  const auto got = climatology.probabilities(end);
  for (int k = 0; k < classes; ++k) {
    const double pibar = (big_n[k] + 0.5) / (big + 0.5 * classes);
    EXPECT_NEAR(got[static_cast<std::size_t>((cy * domain.width() + cx) * classes + k)],
                (n_k[k] + climatology.alpha() * pibar) / (n + climatology.alpha()), 1e-5);
  }
}

TEST(Climatology, LeavesOutTheSamplesOwnNeighbourhoodInTimeAndNothingElse) {
  const Communicator self(MPI_COMM_SELF);
  const Rect domain{0, 20, 0, 16};
  const auto all = observations(domain, 6);
  const Climatology climatology = Climatology::from_windows(self, domain, domain, 6 * hour, classes, all);
  const Time end = 3 * day + 9 * hour;
  // The windows less than 18 h away do not matter, whatever they hold; one 18 h away does.
  const auto changed = [&](Time from, Time to) {
    auto other = all;
    for (ObservedWindow& w : other)
      if (w.end >= from && w.end <= to) w.classes.assign(w.classes.size(), 3);
    return Climatology::from_windows(self, domain, domain, 6 * hour, classes, other)
        .probabilities_without(end);
  };
  const auto base = climatology.probabilities_without(end);
  EXPECT_EQ(changed(end - 18 * hour + 1, end + 18 * hour - 1), base);
  EXPECT_NE(changed(end + 18 * hour, end + 18 * hour), base); // through the domain's mean
  EXPECT_NE(changed(end + day, end + day), base);
  EXPECT_NE(climatology.probabilities(end), base);
  // Leaving out = never having had them.
  auto fewer = all;
  std::erase_if(fewer, [&](const ObservedWindow& w) { return std::abs(w.end - end) < 18 * hour; });
  EXPECT_EQ(Climatology::from_windows(self, domain, domain, 6 * hour, classes, fewer).probabilities(end),
            base);
}

TEST(Climatology, TrustsPlacesAsFarAsTheyDiffer) {
  const Communicator self(MPI_COMM_SELF);
  const Rect domain{0, 40, 0, 40};
  // Twelve days on which it rains in one quarter of the domain: always the same, or the next one every day.
  const auto chosen = [&](bool same_place) {
    std::mt19937 random(3);
    std::vector<ObservedWindow> windows;
    for (Time end = 6 * hour; end < 12 * day; end += hour) {
      const Index place = same_place ? 0 : end / day % 4;
      ObservedWindow w{end, {}};
      for (Index y = 0; y < 40; ++y)
        for (Index x = 0; x < 40; ++x)
          w.classes.push_back(
              static_cast<std::int8_t>((y / 20 * 2 + x / 20 == place && random() % 3 != 0) ? 1 : 0));
      windows.push_back(w);
    }
    return Climatology::from_windows(self, domain, domain, 6 * hour, 2, windows).alpha();
  };
  EXPECT_EQ(chosen(true), Climatology::alphas.front());
  EXPECT_GE(chosen(false), 50);
}

TEST(Climatology, FallsBackToTheDomainsMean) {
  const Communicator self(MPI_COMM_SELF);
  const Rect domain{0, 8, 0, 60};
  ObservedWindow window{12 * hour, std::vector<std::int8_t>(static_cast<std::size_t>(domain.cells()), -1)};
  for (Index y = 0; y < 8; ++y)
    window.classes[static_cast<std::size_t>(y * 60)] = static_cast<std::int8_t>(y % 3);
  const auto climatology = Climatology::from_windows(self, domain, domain, 6 * hour, classes, {window});
  const double pibar[] = {3.5 / 10, 3.5 / 10, 2.5 / 10, 0.5 / 10};
  const auto far = climatology.probabilities(12 * hour), other_hour = climatology.probabilities(15 * hour);
  for (std::size_t k = 0; k < classes; ++k) {
    EXPECT_FLOAT_EQ(far[13 * classes + k], static_cast<float>(pibar[k])); // 13 cells from the data
    EXPECT_FLOAT_EQ(other_hour[k], static_cast<float>(pibar[k]));
  }
  EXPECT_NE(far[0], other_hour[0]);
}

TEST(Climatology, RefusesARangeWithoutData) {
  const Communicator world(MPI_COMM_WORLD);
  const Rect domain{0, 8, 0, 8};
  for (const auto& windows : {std::vector<ObservedWindow>{}, std::vector<ObservedWindow>{{hour, {}}}}) try {
      Climatology::from_windows(world, domain, domain, 6 * hour, classes, windows);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
    }
}

TEST(Climatology, ExceedancesAreSumsOfUpperClasses) {
  const auto p = exceedance({0.5F, 0.25F, 0.125F, 0.125F, 1, 0, 0, 0}, 4);
  EXPECT_EQ(p, (std::vector<float>{0.5F, 0, 0.25F, 0, 0.125F, 0}));
}
