#pragma once
#include <string>
#include <vector>

#include "pluvia/verify/scores.hpp"

namespace pluvia {

/// Where the numbers come from, for the files.
struct ReportHeader {
  std::string configuration; ///< resolved YAML
  std::string test_from, test_to;
  std::int64_t forecasts = 0; ///< files used
  /// Weight of the domain's mean in the reference climatology [windows]; 0 = unknown, as after a merge.
  double climatology_alpha = 0;
};

/// Writes FOLDER/scores.json (every score with its interval, reliability and ROC points, and the sums they
/// follow from, which merge exactly) and FOLDER/scores.csv (one score a line), each under a temporary name,
/// then renamed. Local. Throws a usage Error when it cannot write.
void write_report(const std::string& folder, const ScoreTable& table, const std::vector<Score>& scores,
                  const ReportHeader& header);

/// Adds up the sums of score files that write_report made. Local. Throws a data Error when a file is not one,
/// they do not fit together, or two hold the same lead of a forecast.
ScoreTable read_reports(const std::vector<std::string>& paths);

/// A short table for people: base rate, N_valid and the Brier skill score of each system by lead and
/// threshold.
std::string summary(const ScoreTable& table, const std::vector<Score>& scores);

} // namespace pluvia
