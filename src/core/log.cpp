#include "pluvia/core/log.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace pluvia {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds bar_interval{100};
constexpr std::chrono::seconds line_interval{10};

/// Clears a progress bar that may stand on the terminal's current line.
const char* fresh_line(Log::Voice voice) {
  return voice == Log::Voice::terminal ? "\r\033[K" : "";
}

std::string duration(double seconds) {
  const auto s = static_cast<long long>(seconds + 0.5);
  if (s < 60) return fmt::format("{:.{}f} s", seconds, seconds < 10 ? 1 : 0);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02} h", s / 3600, s / 60 % 60);
}

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

} // namespace

Log Log::for_rank(int rank) {
  if (rank != 0) return Log(Voice::silent);
  return Log(isatty(STDERR_FILENO) != 0 ? Voice::terminal : Voice::lines);
}

void Log::info(const std::string& line) const {
  if (voice_ != Voice::silent) fmt::print(stderr, "{}{}\n", fresh_line(voice_), line);
}

void Log::warn(const std::string& line) const {
  if (voice_ != Voice::silent) fmt::print(stderr, "{}warning: {}\n", fresh_line(voice_), line);
}

Progress::Progress(const Log& log, std::string title, std::int64_t total)
    : log_(log), title_(std::move(title)), total_(total), start_(Clock::now()), last_(start_) {}

void Progress::update(std::int64_t done, const std::string& detail) {
  done_ = done;
  if (log_.voice() == Log::Voice::silent) return;
  const bool terminal = log_.voice() == Log::Voice::terminal;
  const Clock::time_point now = Clock::now();
  const bool due = now - last_ >= (terminal ? Clock::duration(bar_interval) : Clock::duration(line_interval));
  if (!due && !(terminal && done == total_)) return;
  last_ = now;

  const double share =
      total_ > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0) : 0;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  std::string left;
  if (share > 0) left = fmt::format(", {} left", duration(elapsed * (1 - share) / share));
  const std::string numbers = fmt::format("{} of {} ({:.0f} %{})", done, total_, 100 * share, left);
  const std::string tail = detail.empty() ? "" : "  " + detail;
  if (!terminal) {
    log_.info(fmt::format("{}: {}{}", title_, numbers, tail));
    return;
  }
  constexpr std::size_t bar_cells = 20;
  const auto full = static_cast<std::size_t>(share * bar_cells);
  std::string line = fmt::format("{} [{}{}] {}{}", title_, std::string(full, '#'),
                                 std::string(bar_cells - full, '.'), numbers, tail);
  line.resize(std::min(line.size(), terminal_width() - 1)); // a wrapped line could not be redrawn in place
  fmt::print(stderr, "{}{}", fresh_line(log_.voice()), line);
  std::fflush(stderr);
}

Progress::~Progress() {
  if (log_.voice() == Log::Voice::silent) return;
  const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
  log_.info(fmt::format("{}: {} of {} in {}", title_, done_, total_, duration(elapsed)));
}

} // namespace pluvia
