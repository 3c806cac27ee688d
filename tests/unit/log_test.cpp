#include "pluvia/core/log.hpp"

#include <string>

#include <gtest/gtest.h>

namespace pluvia {
namespace {

/// What `work` writes to standard error.
template <class Work> std::string said(Work&& work) {
  ::testing::internal::CaptureStderr();
  work();
  return ::testing::internal::GetCapturedStderr();
}

std::string work_with(Log::Voice voice) {
  return said([&] {
    const Log log(voice);
    Progress progress(log, "train", 4);
    for (int step = 1; step <= 4; ++step) progress.update(step, "loss 0.5");
    log.info("a line");
  });
}

TEST(Log, OnlyRankZeroSpeaks) {
  EXPECT_EQ(Log::for_rank(3).voice(), Log::Voice::silent);
  EXPECT_NE(Log::for_rank(0).voice(), Log::Voice::silent);
  EXPECT_EQ(work_with(Log::Voice::silent), "");
  EXPECT_EQ(said([] { Log(Log::Voice::silent).warn("unheard"); }), "");
}

TEST(Log, ShortWorkLeavesOneLineInALog) {
  const std::string text = work_with(Log::Voice::lines);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find("a line\n"), 0U);
  EXPECT_EQ(text.find("train: 4 of 4 in 0.0 s\n"), std::string("a line\n").size());
  EXPECT_EQ(said([] { Log(Log::Voice::lines).warn("thin ice"); }), "warning: thin ice\n");
}

TEST(Log, ATerminalShowsABarThatLinesReplace) {
  const std::string text = work_with(Log::Voice::terminal);
  EXPECT_NE(text.find("train [####################] 4 of 4 (100 %"), std::string::npos) << text;
  EXPECT_NE(text.find("loss 0.5\r\033[Ka line\n"), std::string::npos) << text;
}

TEST(Log, AnUnfinishedWorkSaysHowFarItCame) {
  const std::string text = said([] {
    const Log log(Log::Voice::lines);
    Progress(log, "forecast", 10).update(3);
  });
  EXPECT_EQ(text, "forecast: 3 of 10 in 0.0 s\n");
}

} // namespace
} // namespace pluvia
