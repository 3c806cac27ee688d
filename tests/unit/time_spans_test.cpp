#include "pluvia/data/time_spans.hpp"

#include <gtest/gtest.h>

#include "pluvia/core/error.hpp"

namespace pluvia {
namespace {

using Spans = std::vector<TimeSpan>;

TEST(TimeSpans, WithoutOthersLeavesWhatTheyDoNotTouch) {
  EXPECT_EQ(without({0, 10}, {}), (Spans{{0, 10}}));
  EXPECT_EQ(without({0, 10}, {{4, 6}}), (Spans{{0, 4}, {6, 10}}));
  EXPECT_EQ(without({0, 10}, {{6, 8}, {4, 6}}), (Spans{{0, 4}, {8, 10}})) << "in any order";
  EXPECT_EQ(without({0, 10}, {{-5, 2}, {9, 20}}), (Spans{{2, 9}}));
  EXPECT_EQ(without({0, 10}, {{2, 8}, {3, 4}}), (Spans{{0, 2}, {8, 10}})) << "one inside another";
  EXPECT_EQ(without({0, 10}, {{20, 30}, {-9, -3}}), (Spans{{0, 10}}));
  EXPECT_TRUE(without({0, 10}, {{0, 10}}).empty());
  EXPECT_TRUE(without({10, 0}, {}).empty());
}

// Every moment of the training range is trained on or judged by, never both.
TEST(TimeSpans, TrainingNeverSeesWhatItIsJudgedBy) {
  DataSettings data;
  data.train = {"2019-12-25", "2020-01-01"};
  data.validate = {"2019-12-27", "2019-12-28"};
  data.test = {"2019-12-28", "2019-12-29"};
  const Time day = 86400, first = parse_time("2019-12-25");
  EXPECT_EQ(training_spans(data), (Spans{{first, first + 2 * day}, {first + 4 * day, first + 7 * day}}));
  data.test = {};
  EXPECT_EQ(training_spans(data).size(), 2U) << "a range that is not set takes nothing away";
  data.train = {};
  const Spans open = training_spans(data);
  ASSERT_EQ(open.size(), 2U);
  EXPECT_LT(open[0].from, parse_time("1900-01-01"));
  EXPECT_GT(open[1].to, parse_time("2200-01-01"));
  data.train.from = "2019-13-01";
  EXPECT_THROW(training_spans(data), Error);
}

TEST(TimeSpans, AWindowMustLieInOneSpan) {
  const Spans spans{{0, 10}, {12, 20}};
  EXPECT_TRUE(hold_window(spans, 6, 6));
  EXPECT_FALSE(hold_window(spans, 5, 6)) << "begins before";
  EXPECT_FALSE(hold_window(spans, 10, 6)) << "half-open";
  EXPECT_FALSE(hold_window(spans, 15, 6)) << "begins in the gap";
  EXPECT_TRUE(hold_window(spans, 19, 6));
}

} // namespace
} // namespace pluvia
