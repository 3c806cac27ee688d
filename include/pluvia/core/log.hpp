#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace pluvia {

/// How the program speaks: rank 0 only. On a terminal long work shows one progress bar; elsewhere a line per
/// interval. Made once in main and handed down.
class Log {
public:
  enum class Voice { silent, lines, terminal };
  explicit Log(Voice voice) : voice_(voice) {}
  /// The voice for this rank: silent unless rank 0, a terminal when standard error is one.
  static Log for_rank(int rank);

  Voice voice() const { return voice_; }
  /// One line on standard error, which is the program's channel for progress; results go to standard output.
  void info(const std::string& line) const;
  void warn(const std::string& line) const;

private:
  Voice voice_;
};

/// Progress of `total` units of long work with the time left; `detail` follows on the same line. When it goes
/// out of scope one line says how much was done in what time.
class Progress {
public:
  Progress(const Log& log, std::string title, std::int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(std::int64_t done, const std::string& detail = {});

private:
  const Log& log_;
  std::string title_;
  std::int64_t total_;
  std::chrono::steady_clock::time_point start_, last_;
  std::int64_t done_ = 0;
};

} // namespace pluvia
