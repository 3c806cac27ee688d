#include "pluvia/core/config.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"

namespace pluvia {
namespace {

Settings read(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_settings(yaml, "deck.yaml", overrides);
}

/// The message that a configuration is refused with; "" when it is accepted.
std::string refusal(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    read(yaml, overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

#define EXPECT_SAYS(message, part)                                                                           \
  EXPECT_NE((message).find(part), std::string::npos) << "message: " << (message)

TEST(Config, AnEmptyFileIsTheDefaults) {
  EXPECT_EQ(read(""), Settings{});
  EXPECT_EQ(read("# nothing but a comment\n"), Settings{});
  EXPECT_EQ(read("train:\nmodel: {}\n"), Settings{});
}

TEST(Config, ReadsEveryKindOfValue) {
  const Settings s = read(R"(
data:
  archive: one.nc            # a single value stands for a list
  predictors: [tb, "rain"]
  target: 'rain'
  latency_minutes: {tb: 15, rain: 240.5}
  train: {from: 2019-12-25, to: 2019-12-30T06:00}
target:
  thresholds_mm: [0.5, 2.5e+1]
model: {history: 8, channels: [16, 32], attention: {levels: [-1], form: windowed}}
train: {learning_rate: 3e-4}
forecast: {write_logits: true, checkpoint: }
)");
  EXPECT_EQ(s.data.archive, std::vector<std::string>{"one.nc"});
  EXPECT_EQ(s.data.predictors, (std::vector<std::string>{"tb", "rain"}));
  EXPECT_EQ(s.data.target, "rain");
  EXPECT_EQ(s.data.latency_minutes, (std::map<std::string, double>{{"tb", 15}, {"rain", 240.5}}));
  EXPECT_EQ(s.data.train, (TimeRange{"2019-12-25", "2019-12-30T06:00"}));
  EXPECT_EQ(s.target.thresholds_mm, (std::vector<double>{0.5, 25}));
  EXPECT_EQ(s.model.history, 8);
  EXPECT_EQ(s.model.attention.levels, std::vector<std::int64_t>{-1});
  EXPECT_EQ(s.model.attention.form, "windowed");
  EXPECT_EQ(s.train.learning_rate, 3e-4);
  EXPECT_TRUE(s.forecast.write_logits);
  EXPECT_TRUE(s.forecast.checkpoint.empty());
  EXPECT_EQ(s.train.batch, Settings{}.train.batch);
}

TEST(Config, AListOfTextsMayBeOneTextOrNone) {
  using Texts = std::vector<std::string>;
  EXPECT_EQ(read("forecast: {checkpoint: a.h5}").forecast.checkpoint, Texts{"a.h5"});
  EXPECT_EQ(read("forecast: {checkpoint: [a.h5, b.h5]}").forecast.checkpoint, (Texts{"a.h5", "b.h5"}));
  EXPECT_EQ(read("", {"forecast.checkpoint=[a.h5, b.h5]"}).forecast.checkpoint, (Texts{"a.h5", "b.h5"}));
  for (const char* none : {"''", "[]", "", "~"})
    EXPECT_EQ(read("forecast:\n  checkpoint: " + std::string(none)).forecast.checkpoint, Texts{}) << none;
  EXPECT_EQ(read("forecast: {checkpoint: a.h5}", {"forecast.checkpoint="}).forecast.checkpoint, Texts{});
}

TEST(Config, PointsAreOnePairOrAListOfPairs) {
  using Points = std::vector<LatLon>;
  const Points one{{5.1, -73.2}}, two{{5.1, -73.2}, {6, 1}};
  const auto in_file = [](const std::string& text) {
    return read("forecast: {write_attention: " + text + "}").forecast.write_attention;
  };
  EXPECT_EQ(in_file("[[5.1, -73.2], [6, 1]]"), two);
  EXPECT_EQ(in_file("[5.1, -73.2]"), one);
  EXPECT_EQ(in_file("[]"), Points{});
  for (const char* text : {"5.1,-73.2", "[5.1,-73.2]", "[[5.1,-73.2]]"})
    EXPECT_EQ(read("", {std::string("forecast.write_attention=") + text}).forecast.write_attention, one)
        << text;
  EXPECT_EQ(read("", {"forecast.write_attention=[5.1,-73.2],[6,1]"}).forecast.write_attention, two);
  EXPECT_EQ(
      read("forecast: {write_attention: [6, 1]}", {"forecast.write_attention=[]"}).forecast.write_attention,
      Points{});
  Settings s;
  s.forecast.write_attention = two;
  EXPECT_EQ(read(resolved_yaml(s)), s);
  for (const char* text :
       {"5", "[5.1]", "[[5.1, -73.2], 6]", "[[5.1, -73.2, 1]]", "[[5.1, west]]", "{lat: 5}"})
    EXPECT_SAYS(refusal("forecast: {write_attention: " + std::string(text) + "}"),
                "forecast.write_attention must be");
}

TEST(Config, OverridesReplaceTheFileInOrder) {
  const Settings s =
      read("train: {steps: 5, batch: 2}\ndata: {latency_minutes: {tb: 5}}\n",
           {"train.steps=7", "train.steps=9", "data.archive=*.nc", "model.channels=16,48",
            "model.attention.levels=-1", "data.test={from: 2020-01-01, to: 2020-02-01}",
            "data.latency_minutes.rain=30", "train.output=a=b: c", "forecast.init=2020-01-01/2020-01-02/PT6H",
            "data.predictors=[tb, rain]", "simulate.noise_kelvin=0"});
  EXPECT_EQ(s.train.steps, 9);
  EXPECT_EQ(s.train.batch, 2);
  EXPECT_EQ(s.data.archive, std::vector<std::string>{"*.nc"});
  EXPECT_EQ(s.model.channels, (std::vector<std::int64_t>{16, 48}));
  EXPECT_EQ(s.model.attention.levels, std::vector<std::int64_t>{-1});
  EXPECT_EQ(s.data.test, (TimeRange{"2020-01-01", "2020-02-01"}));
  EXPECT_EQ(s.data.latency_minutes, (std::map<std::string, double>{{"tb", 5}, {"rain", 30}}));
  EXPECT_EQ(s.train.output, "a=b: c");
  EXPECT_EQ(s.forecast.init, "2020-01-01/2020-01-02/PT6H");
  EXPECT_EQ(s.data.predictors, (std::vector<std::string>{"tb", "rain"}));
  EXPECT_EQ(s.simulate.noise_kelvin, 0);
}

TEST(Config, TheRecordReadsBackToTheSameSettings) {
  Settings s;
  EXPECT_EQ(read(resolved_yaml(s)), s);
  // Values whose shortest decimal text is long, and texts that YAML would read as something else.
  s.data.archive = {"*.nc", "&a", "true", "1.5", "", "a\"b\\c\t\n", "Zürich: #1", "null", "~"};
  s.data.predictors = {};
  s.data.latency_minutes = {{"tb: 1", 0.1 + 0.2}, {"yes", 1e-300}};
  s.data.train = {"2019-12-25", "2019-12-30 06:00Z"};
  s.target.thresholds_mm = {0.1, std::nextafter(0.1, 1.0), 1.0 / 3.0, 1e15, 1e22};
  s.train.learning_rate = std::nextafter(1.0, 0.0);
  s.train.seed = (std::int64_t{1} << 53) + 1;
  s.model.channels = {16, 32, 64, 128};
  s.model.attention.levels = {};
  s.forecast.write_logits = true;
  EXPECT_EQ(read(resolved_yaml(s)), s);
  EXPECT_EQ(resolved_yaml(read(resolved_yaml(s))), resolved_yaml(s));
}

TEST(Config, UnknownKeysNameThePlaceAndTheNearestKey) {
  const std::string typo = refusal("train:\n  steps: 5\n  bacth: 3\n");
  EXPECT_SAYS(typo, "Unknown key train.bacth");
  EXPECT_SAYS(typo, "deck.yaml:3");
  EXPECT_SAYS(typo, "Did you mean train.batch?");
  EXPECT_SAYS(refusal("modle:\n  history: 3\n"), "Did you mean model?");
  EXPECT_SAYS(refusal("history: 3\n"), "Did you mean model.history?");
  EXPECT_SAYS(refusal("train:\n  history: 3\n"), "Did you mean model.history?");
  EXPECT_SAYS(refusal("model:\n  attention:\n    raduis: 3\n"), "Did you mean model.attention.radius?");
  EXPECT_SAYS(refusal("train:\n  xyzzy: 3\n"), "See `pluvia config`");
  const std::string override_typo = refusal("", {"train.step=3"});
  EXPECT_SAYS(override_typo, "on the command line");
  EXPECT_SAYS(override_typo, "Did you mean train.steps?");
  EXPECT_SAYS(refusal("", {"train.steps.more=3"}), "Unknown key train.steps.more");
  EXPECT_SAYS(refusal("? [a, b]\n: 3\n"), "A key must be a word (deck.yaml:1");
}

TEST(Config, WrongTypesSayWhatWasExpectedAndFound) {
  const std::string message = refusal("model:\n  history: six\n");
  EXPECT_SAYS(message, "model.history must be a whole number");
  EXPECT_SAYS(message, "deck.yaml:2: the text 'six' found");
  EXPECT_SAYS(refusal("model: {history: 6.5}"), "whole number");
  EXPECT_SAYS(refusal("model: {history: \"6\"}"), "whole number"); // a quoted number is a text
  EXPECT_SAYS(refusal("model: {history: 99999999999999999999}"), "whole number");
  EXPECT_SAYS(refusal("model: {history: [6]}"), "a list found");
  EXPECT_SAYS(refusal("model: {history: }"), "has no value");
  EXPECT_SAYS(refusal("train: {learning_rate: .nan}"), "a number");
  EXPECT_SAYS(refusal("train: {learning_rate: inf}"), "a number");
  EXPECT_SAYS(refusal("train: {learning_rate: 1e-3x}"), "a number");
  EXPECT_SAYS(refusal("forecast: {write_logits: yes}"), "true or false");
  EXPECT_SAYS(refusal("target: {leads_hours: [6, twelve]}"), "'twelve'");
  EXPECT_SAYS(refusal("data: {target: {a: 1}}"), "a text");
  EXPECT_SAYS(refusal("data: {latency_minutes: 5}"), "NAME: NUMBER");
  EXPECT_SAYS(refusal("train: 5"), "train must be a group of keys");
  EXPECT_SAYS(refusal("- train"), "groups of keys");
  const std::string from_shell = refusal("", {"train.steps=many"});
  EXPECT_SAYS(from_shell, "on the command line: the text 'many' found");
}

TEST(Config, ValuesOutOfRangeNameRangeAndUnit) {
  const std::string message = refusal("model:\n  history: 0\n");
  EXPECT_SAYS(message, "model.history = 0 is not allowed");
  EXPECT_SAYS(message, "deck.yaml:2: 1 to 96 frames expected");
  EXPECT_SAYS(refusal("data: {latency_minutes: {tb: -1}}"), "at least 0 min expected");
  EXPECT_SAYS(refusal("", {"data.latency_minutes.tb=-1"}), "at least 0 min expected");
  EXPECT_SAYS(refusal("train: {learning_rate: 0}"), "above 0");
  EXPECT_SAYS(refusal("data: {precip_label: middle}"), "start | end expected");
  EXPECT_SAYS(refusal("model: {base: persistence}"), "climatology | regression expected");
  EXPECT_SAYS(refusal("model: {channels: [16, 24]}"), "multiples of 16");
  EXPECT_SAYS(refusal("model: {channels: []}"), "not empty");
  EXPECT_SAYS(refusal("target: {leads_hours: [12, 6]}"), "ascending");
  EXPECT_SAYS(refusal("target: {thresholds_mm: [1, 1]}"), "ascending");
  EXPECT_SAYS(refusal("target: {thresholds_mm: [0, 1]}"), "above 0");
  EXPECT_SAYS(refusal("data: {train: {from: yesterday}}"), "YYYY-MM-DD");
  EXPECT_SAYS(refusal("data: {train: {from: 2019-1-25}}"), "YYYY-MM-DD");
  EXPECT_SAYS(refusal("simulate: {from: }"), "not empty");
  EXPECT_SAYS(refusal("train: {output: ''}"), "not empty");
  EXPECT_SAYS(refusal("model: {attention: {global: ring}}"), "none | linear | softmax");
}

TEST(Config, KeysThatContradictEachOtherAreRefused) {
  EXPECT_SAYS(refusal("data:\n  train:\n    from: 2020-01-02\n    to: 2020-01-01T12:00\n"),
              "data.train is empty (deck.yaml:4");
  EXPECT_EQ(refusal("data: {train: {from: 2020-01-02, to: 2020-01-02T12:00Z}}"), "");
  EXPECT_SAYS(refusal("target: {leads_hours: [3, 6], window_hours: 6}"), "deck.yaml:1");
  EXPECT_SAYS(refusal("", {"target.leads_hours=3"}), "on the command line");
  EXPECT_SAYS(refusal("model: {base: regression}\ndata: {target: rain, predictors: [tb]}"),
              "model.base: regression needs past rain (deck.yaml:2: data.predictors must name data.target)");
  EXPECT_EQ(refusal("model: {base: regression}\ndata: {target: rain, predictors: [tb, rain]}"), "");
  EXPECT_SAYS(refusal("model: {channels: [16]}"), "names level -2");
  EXPECT_SAYS(refusal("model: {attention: {levels: [2, -1]}}"), "twice");
  EXPECT_EQ(refusal("model: {channels: [16], attention: {levels: [0]}}"), "");
}

TEST(Config, AFileThatSaysAThingTwiceIsRefused) {
  EXPECT_SAYS(refusal("train:\n  steps: 5\n  steps: 6\n"), "train.steps is given twice (deck.yaml:3)");
  EXPECT_SAYS(refusal("train: {steps: 5}\nmodel: {}\ntrain: {batch: 6}\n"),
              "train is given twice (deck.yaml:3)");
  EXPECT_SAYS(refusal("data: {latency_minutes: {tb: 5, tb: 6}}"), "'tb' twice");
  EXPECT_SAYS(refusal("train.steps: 5\ntrain: {steps: 6}\n"), "train.steps is given twice");
}

TEST(Config, BrokenYamlAndArgumentsAreRefusedWithTheirPlace) {
  EXPECT_SAYS(refusal("train:\n  steps: [1\n"), "deck.yaml:");
  EXPECT_SAYS(refusal("data:\n  archive: *.nc\n"), "deck.yaml:2");
  EXPECT_SAYS(refusal("train: {}\n---\ntrain: {}\n"), "more than one");
  EXPECT_SAYS(refusal("", {"train.steps"}), "not an override");
  EXPECT_SAYS(refusal("", {"=5"}), "not an override");
  EXPECT_SAYS(refusal("", {"train.steps=[1"}), "train.steps");
  EXPECT_SAYS(refusal("", {"train.steps="}), "has no value");
}

TEST(Config, TheReferenceHasEveryKeyThatTheRecordHas) {
  const std::string reference = key_reference();
  std::size_t rows = 0, keys = 0;
  for (std::size_t at = 0; (at = reference.find("\n| ", at)) != std::string::npos; ++at) ++rows;
  const std::string record = resolved_yaml({});
  for (std::size_t at = 0; (at = record.find(": ", at)) != std::string::npos; ++at) ++keys;
  std::size_t sections = 0;
  for (std::size_t at = 0; (at = reference.find("## ", at)) != std::string::npos; ++at) ++sections;
  EXPECT_EQ(rows, keys + sections); // a heading row per section
  EXPECT_SAYS(reference, "| model.history | whole number | 6 | frames | 1 to 96 |");
  EXPECT_SAYS(reference, "start \\| end"); // a bar would end the cell
  EXPECT_EQ(key_reference("train").find("model."), std::string::npos);
  EXPECT_SAYS(key_reference("model.attention"), "model.attention.radius");
  EXPECT_EQ(key_reference("model.attention").find("model.history"), std::string::npos);
  EXPECT_THROW(key_reference("weather"), Error);
}

} // namespace
} // namespace pluvia
