// Reference forecasts, the climatology and the base of a network from archives made here.
#include "pluvia/verify/references.hpp"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "pluvia/core/random.hpp"
#include "pluvia/data/box_mean.hpp"
#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "scratch.hpp"

using namespace pluvia;

namespace {

constexpr Time hour = 3600, start = 1577836800; // 2020-01-01
constexpr Index ny = 30, nx = 26;
constexpr int frames = 120;
constexpr std::size_t plenty = std::size_t{1} << 30;
const std::vector<double> thresholds{1, 5};

double noise(Index y, Index x, int t) {
  return random_uniform(9, RandomPurpose::test, static_cast<std::uint64_t>(y * nx + x),
                        static_cast<std::uint64_t>(t));
}

// Cold spells of 15 hours come and go over each half of the domain; rain follows the cold by three hours.
bool cold(Index x, int t) {
  return random_uniform(10, RandomPurpose::test, x < nx / 2 ? 0 : 1,
                        static_cast<std::uint64_t>((t + 100) / 15)) < 0.5;
}
float temperature(Index y, Index x, int t) {
  if (noise(y, x, t) < 0.02) return std::nanf("");
  return static_cast<float>((cold(x, t) ? 220 : 280) + 20 * noise(y, x, t));
}
float rain(Index y, Index x, int t) {
  if (noise(y, x, t) > 0.99) return std::nanf("");
  return static_cast<float>(cold(x, t - 3) ? 2 * noise(y, x, t + 1000) : 0);
}

class Archived : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD}, self{MPI_COMM_SELF};
  test::ScratchFolder folder{world};
  Rect domain{0, ny, 0, nx};
  ArchiveIndex index;
  RecentWeatherRule rules{{"rain", false, 6 * hour}, thresholds, "tb", {}};

  void SetUp() override {
    Grid grid;
    for (Index y = 0; y < ny; ++y) grid.y.push_back(30 - 0.5 * static_cast<double>(y));
    for (Index x = 0; x < nx; ++x) grid.x.push_back(0.5 * static_cast<double>(x));
    const std::string path = folder / "archive.nc";
    NcWriter file(world, path);
    write_grid(file, grid);
    write_time_axis(file, NcWriter::unlimited, "time");
    for (const char* name : {"tb", "rain"}) {
      file.add_field(name, NcType::f32, {"time", "lat", "lon"});
      set_grid_attributes(file, grid, name);
    }
    const Rect tile = world.rank() == 0 ? domain : Rect{};
    std::size_t written = 0;
    for (int t = 0; t < frames; ++t) {
      if (t == 50) continue; // a missing frame
      write_time(file, written, start + t * hour);
      std::vector<float> tb, mm;
      for (Index y = tile.y0; y < tile.y1; ++y)
        for (Index x = tile.x0; x < tile.x1; ++x)
          tb.push_back(temperature(y, x, t)), mm.push_back(rain(y, x, t));
      file.write_tile("tb", {written}, {1}, tile, tb);
      file.write_tile("rain", {written++}, {1}, tile, mm);
    }
    file.commit();
    index = index_archive(world, {path});
  }

  Rect tile() const {
    const GridShape shape = choose_grid_shape(ny, nx, 1, world.size());
    return Tiling(ny, nx, 1, shape.rows, shape.cols).tile(world.rank(), 0);
  }
  ArchiveReader reader(const Rect& of) const { return {index, Climatology::grown(of, domain), plenty}; }
  Climatology count(const Communicator& comm, const Rect& of) {
    ArchiveReader r = reader(of);
    return Climatology::count(comm, r, of, rules.rain, thresholds,
                              std::vector<TimeSpan>{{start, start + 96 * hour}});
  }
};

} // namespace

TEST(BoxMean, AveragesWhatIsKnown) {
  const float nan = std::nanf("");
  const std::vector<float> field{1, 2, 3, nan, 4, 5, nan, nan, nan};
  EXPECT_EQ(box_mean(field, {0, 3, 0, 3}, {0, 3, 0, 3}, 3)[4], 3.0F);
  EXPECT_EQ(box_mean(field, {0, 3, 0, 3}, {0, 1, 0, 1}, 3)[0], 7.0F / 3);
  EXPECT_TRUE(std::isnan(box_mean(field, {0, 3, 0, 3}, {2, 3, 0, 1}, 1)[0]));
  EXPECT_EQ(box_mean(field, {0, 3, 0, 3}, {2, 3, 0, 1}, 3)[0], 4.0F);
}

TEST(RecentWeather, TakesTheColdestBrightnessTemperature) {
  const auto brightness = [](const std::vector<std::string>& predictors) {
    Settings settings;
    settings.data.predictors = predictors;
    settings.data.target = "rain";
    return recent_weather_rule(settings).brightness;
  };
  EXPECT_EQ(brightness({"tb_mean", "tb_min", "rain"}), "tb_min");
  EXPECT_EQ(brightness({"tb_min", "tb_mean", "rain"}), "tb_min");
  EXPECT_EQ(brightness({"rain", "tb_window", "tb_vapour"}), "tb_window");
  EXPECT_EQ(brightness({"rain"}), "");
}

TEST_F(Archived, ClimatologyCountsTheWindowsOfTheArchive) {
  const Climatology counted = count(world, tile());
  std::vector<ObservedWindow> windows;
  ArchiveReader all = reader(domain);
  for (int end = 6; end < 96; ++end) { // frame 0 holds the hour before the range
    ObservedWindow w{start + end * hour, {}};
    const auto amount = accumulate(all, rules.rain, w.end);
    for (const float mm : amount) w.classes.push_back(static_cast<std::int8_t>(amount_class(mm, thresholds)));
    windows.push_back(w);
  }
  const Climatology expected = Climatology::from_windows(self, domain, domain, 6 * hour, 3, windows);
  const auto got = counted.probabilities_without(start + 60 * hour),
             whole = expected.probabilities_without(start + 60 * hour);
  const Rect t = tile();
  for (Index y = t.y0; y < t.y1; ++y)
    for (Index x = t.x0; x < t.x1; ++x)
      for (Index k = 0; k < 3; ++k)
        ASSERT_EQ(got[static_cast<std::size_t>(((y - t.y0) * t.width() + x - t.x0) * 3 + k)],
                  whole[static_cast<std::size_t>((y * nx + x) * 3 + k)]);
  EXPECT_EQ(counted.windows().size(), windows.size());
}

TEST_F(Archived, InputsHaveTheSameBitsOnEveryTile) {
  ArchiveReader mine = reader(tile()), all = reader(domain);
  const RecentWeather part = recent_weather(mine, rules, tile(), start + 80 * hour),
                      whole = recent_weather(all, rules, domain, start + 80 * hour);
  std::size_t cell = 0;
  for (Index y = tile().y0; y < tile().y1; ++y)
    for (Index x = tile().x0; x < tile().x1; ++x, ++cell) {
      const auto other = static_cast<std::size_t>(y * nx + x);
      ASSERT_EQ(part.persisted[cell], whole.persisted[other]);
      for (std::size_t j = 0; j < RecentWeather::count; ++j) {
        const float a = part.predictors[cell * RecentWeather::count + j],
                    b = whole.predictors[other * RecentWeather::count + j];
        ASSERT_TRUE(a == b || (std::isnan(a) && std::isnan(b)));
      }
    }
}

TEST_F(Archived, NothingThatHasNotArrivedIsUsed) {
  ArchiveReader all = reader(domain);
  RecentWeatherRule late = rules;
  late.latency_minutes = {{"tb", 90}, {"rain", 240}}; // two and four frames
  const Time init = start + 80 * hour;
  const RecentWeather got = recent_weather(all, late, domain, init),
                      tb = recent_weather(all, rules, domain, init - 2 * hour),
                      wet = recent_weather(all, rules, domain, init - 4 * hour);
  EXPECT_EQ(got.persisted, wet.persisted);
  for (std::size_t cell = 0; cell < static_cast<std::size_t>(domain.cells()); ++cell) {
    EXPECT_EQ(got.predictors[cell * 7 + 1], tb.predictors[cell * 7 + 1]);
    EXPECT_EQ(got.predictors[cell * 7 + 6], tb.predictors[cell * 7 + 6]);
    EXPECT_EQ(got.predictors[cell * 7 + 5], wet.predictors[cell * 7 + 5]);
  }
  // A missing frame is unknown, and so is the change since it.
  EXPECT_TRUE(std::isnan(recent_weather(all, rules, domain, start + 50 * hour).predictors[1]));
  EXPECT_TRUE(std::isnan(recent_weather(all, rules, domain, start + 53 * hour).predictors[6]));
}

TEST_F(Archived, LearnsThatColdIsFollowedByRain) {
  const std::vector<double> leads{6, 12};
  const Log log(Log::Voice::silent);
  ArchiveReader mine = reader(tile()), all = reader(domain);
  const std::vector<float> area(static_cast<std::size_t>(tile().cells()), 1.0F),
      whole_area(static_cast<std::size_t>(domain.cells()), 1.0F);
  const std::vector<TimeSpan> spans{{start, start + 96 * hour}};
  const References part = References::fit(world, log, mine, rules, count(world, tile()), leads, area, spans);
  const Climatology climatology = count(self, domain);
  const References whole = References::fit(self, log, all, rules, climatology, leads, whole_area, spans);
  for (std::size_t lead = 0; lead < 2; ++lead)
    EXPECT_EQ(part.regressions()[lead].coefficients, whole.regressions()[lead].coefficients);

  // Where it has just turned cold rain is all but certain at 6 hours; the mean is the climatology's.
  double brier[4] = {}, cells = 0;
  for (int t = 0; t < 90; ++t) { // the very rows it was fitted on
    if (t == 50) continue;
    const Time init = start + t * hour;
    const auto observed = accumulate(all, rules.rain, init + 6 * hour);
    const auto p = whole.forecast(0, recent_weather(all, rules, domain, init),
                                  exceedance(climatology.probabilities_without(init + 6 * hour), 3));
    ASSERT_EQ(p.size(), References::names().size());
    for (std::size_t cell = 0; cell < observed.size(); ++cell) {
      if (std::isnan(observed[cell])) continue;
      cells += 1;
      for (std::size_t s = 0; s < 4; ++s) {
        ASSERT_GE(p[s][cell], p[s][observed.size() + cell]) << "monotone in the threshold";
        brier[s] += std::pow(p[s][cell] - (observed[cell] >= 1 ? 1 : 0), 2);
      }
    }
  }
  EXPECT_GT(cells, 50000);
  EXPECT_LT(brier[3], 0.8 * brier[0]) << "the regression beats climatology";
  EXPECT_LT(brier[2], brier[1]) << "calibration improves persistence";
}

TEST_F(Archived, AnUntrainedNetworkForecastsTheRegressionItStartsFrom) {
  Settings settings;
  settings.data.predictors = {"tb", "rain"};
  settings.data.target = "rain";
  settings.target.leads_hours = {6, 12};
  settings.target.thresholds_mm = thresholds;
  settings.model.history = 2;
  settings.model.channels = {16, 16};
  settings.model.attention.levels = {-1};
  settings.model.base = "regression";
  const SampleRule rule = make_sample_rule(settings);
  Decomposition tiles(world, layout(settings, index.grid, world.size()));
  const Rect part = tiles.tile(0);
  const std::vector<TimeSpan> spans{{start, start + 96 * hour}};
  const Time init = start + 100 * hour;

  // The base of a tile, and of the whole domain on one rank.
  const auto base_of = [&](const Communicator& comm, const Rect& of) {
    ArchiveReader around = reader(of);
    const Climatology climatology = count(comm, of);
    const std::vector<float> area(static_cast<std::size_t>(of.cells()), 1.0F);
    const auto regressions =
        fit_pooled_regression(comm, pooled_rows(comm, Log(Log::Voice::silent), around, rules, climatology,
                                                settings.target.leads_hours, area, spans));
    ArchiveReader near(index, RecentWeather::grown(of, domain), plenty);
    const RecentWeather weather = recent_weather(near, recent_weather_rule(settings), of, init);
    std::vector<std::vector<float>> pi, expected;
    for (std::size_t lead = 0; lead < 2; ++lead) {
      pi.push_back(climatology.probabilities(init + rule.leads[lead]));
      expected.push_back(predict(regressions[lead], weather.predictors, exceedance(pi[lead], 3)));
    }
    return std::pair{regression_base(regressions, weather, pi), expected};
  };
  const auto [base, expected] = base_of(world, part);
  const auto [whole, whole_expected] = base_of(self, domain);
  for (std::size_t lead = 0; lead < 2; ++lead)
    for (Index y = part.y0; y < part.y1; ++y)
      for (Index x = part.x0; x < part.x1; ++x)
        for (Index k = 0; k < 3; ++k)
          ASSERT_EQ(
              base[lead][static_cast<std::size_t>(((y - part.y0) * part.width() + x - part.x0) * 3 + k)],
              whole[lead][static_cast<std::size_t>((y * nx + x) * 3 + k)]);
  const auto [least, most] = std::ranges::minmax_element(whole_expected[0]);
  EXPECT_GT(*most - *least, 0.5F) << "or this test sees no more than a climatology";

  StUnet network = make_network(settings, ports_of(settings));
  Sampler sampler(index, rule, part, plenty);
  SampleInput input = sampler.input(init, sampler.measure(world, spans), base, network.input_margin(),
                                    {0, settings.model.history});
  for (std::size_t lead = 0; lead < 2; ++lead) {
    const float dry = std::clamp(base[lead][0], 1e-3F, 0.999F);
    EXPECT_EQ(input.features.cell(0, 0, 0, 0)[2 * 2 + 7 + lead], 0.5F * std::log((1 - dry) / dry));
  }
  Tape tape(Tape::Mode::forget);
  const std::vector<float> p =
      exceedance_fields(predict(network, tape, tiles, std::move(input), base, 3)->value);
  const auto cells = static_cast<std::size_t>(part.cells());
  for (std::size_t lead = 0; lead < 2; ++lead)
    for (std::size_t i = 0; i < 2 * cells; ++i)
      ASSERT_NEAR(p[lead * 2 * cells + i], expected[lead][i], 4e-5) << "but for the floor of a class";
}

// All ranks hold the whole domain, as parts of the frames do, and each reads its share of the training range.
TEST_F(Archived, SharesOfTheTrainingRangeGiveTheBitsOfAllOfItAndReadItOnce) {
  const std::vector<TimeSpan> spans{{start, start + 96 * hour}};
  const Share own{world.rank(), world.size()};
  const auto frame_bytes = static_cast<std::int64_t>(domain.cells() * static_cast<Index>(sizeof(float)));
  const auto total = [&](const ArchiveReader& reader) {
    std::int64_t bytes = reader.bytes_read();
    world.all_reduce(std::span(&bytes, 1), Reduce::sum);
    return bytes;
  };

  ArchiveReader alone = reader(domain), shared = reader(domain);
  const auto count = [&](ArchiveReader& from, const Climatology::SharedReading* with) {
    return Climatology::count(self, from, domain, rules.rain, thresholds, spans, with);
  };
  const Climatology::SharedReading reading{world, world};
  const Climatology whole = count(alone, nullptr), climatology = count(shared, &reading);
  EXPECT_EQ(climatology.alpha(), whole.alpha());
  for (int end = 60; end < 84; ++end)
    ASSERT_EQ(climatology.probabilities_without(start + end * hour),
              whole.probabilities_without(start + end * hour));
  // Where shares meet, the five frames that windows of six on both sides have in common.
  EXPECT_GT(alone.bytes_read(), 90 * frame_bytes);
  EXPECT_LE(total(shared), alone.bytes_read() + (world.size() - 1) * 5 * frame_bytes);

  Settings settings;
  settings.data.predictors = {"tb", "rain"};
  settings.data.target = "rain";
  settings.target.leads_hours = {6, 12};
  settings.model.frame_minutes = 60;
  const SampleRule rule = make_sample_rule(settings);
  Sampler every(index, rule, domain, plenty), some(index, rule, domain, plenty);
  const Normalisation expected = every.measure(self, spans), got = some.measure(world, spans, own);
  EXPECT_EQ(got.mean, expected.mean);
  EXPECT_EQ(got.deviation, expected.deviation);
  EXPECT_EQ(total(some.reader()), every.reader().bytes_read());

  const std::vector<float> area(static_cast<std::size_t>(domain.cells()), 1.0F);
  const auto fit = [&](const Communicator& comm, ArchiveReader& from, Share share) {
    return to_json(fit_pooled_regression(comm, pooled_rows(comm, Log(Log::Voice::silent), from, rules, whole,
                                                           settings.target.leads_hours, area, spans, share)));
  };
  EXPECT_EQ(fit(world, shared, own), fit(self, alone, {}));
}

TEST(RegressionBase, HoldsTheRegressionsClassesNoneOfThemImpossible) {
  LogisticRegression identity; // all coefficients zero: the climatology
  identity.predictors.resize(RecentWeather::count);
  identity.log_odds.resize(2);
  identity.coefficients.assign(2, std::vector<double>(RecentWeather::count + 2, 0.0));
  const RecentWeather weather{{0, 0}, std::vector<float>(2 * RecentWeather::count, 0.0F)};
  const std::vector<float> climatology{0.5F, 0.3F, 0.2F, 1, 0, 0};
  const std::vector<float> base = regression_base({identity}, weather, {climatology}).at(0);
  for (std::size_t k = 0; k < 3; ++k) EXPECT_NEAR(base[k], climatology[k], 1e-6);
  EXPECT_NEAR(base[3] + base[4] + base[5], 1, 1e-6);
  for (std::size_t k = 4; k < 6; ++k) EXPECT_NEAR(base[k], 1e-5, 1e-8);
}

TEST(RegressionBase, IsStoredToTheLastBit) {
  LogisticRegression r;
  for (int j = 0; j < RecentWeather::count; ++j) r.predictors.push_back({1.0 / (j + 3), std::exp(j)});
  r.log_odds = {{-2.1, 1 / 7.0}};
  r.coefficients.emplace_back();
  for (int j = 0; j < RecentWeather::count + 2; ++j) r.coefficients[0].push_back(std::sin(j) * 1e-3);
  const auto read = regressions_from_json(to_json(std::vector{r, r}), 2, 1);
  ASSERT_EQ(read.size(), 2U);
  EXPECT_EQ(read[1].coefficients, r.coefficients);
  EXPECT_EQ(read[1].log_odds[0].scale, r.log_odds[0].scale);
  for (std::size_t j = 0; j < r.predictors.size(); ++j) {
    EXPECT_EQ(read[1].predictors[j].mean, r.predictors[j].mean);
    EXPECT_EQ(read[1].predictors[j].scale, r.predictors[j].scale);
  }
  for (const auto& [text, leads] : {std::pair{to_json(std::vector{r}), 2U}, std::pair{std::string(), 1U},
                                    std::pair{std::string("[{}]"), 1U}})
    EXPECT_EQ(test::failure_of([&] { regressions_from_json(text, leads, 1); }).code, ExitCode::data) << text;
}
