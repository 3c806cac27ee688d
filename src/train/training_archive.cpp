#include "pluvia/train/training_archive.hpp"

#include <string>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

void require_set(const TimeRange& range, const std::string& key) {
  if (range.from.empty() || range.to.empty())
    fail(ExitCode::usage, key + " is not set", "", "Give both its from and its to.");
}
std::vector<TimeSpan> spans_to_train_on(const DataSettings& data) {
  require_set(data.train, "data.train");
  std::vector<TimeSpan> spans = training_spans(data);
  if (spans.empty())
    fail(ExitCode::usage, "Nothing is left of data.train", "data.validate and data.test cover it",
         "Widen data.train.");
  return spans;
}
std::vector<TimeSpan> spans_to_validate_on(const DataSettings& data) {
  require_set(data.validate, "data.validate");
  return {parse_span(data.validate)};
}

} // namespace

TrainingArchive open_training_archive(const Communicator& world, const Settings& settings) {
  return {make_sample_rule(settings), recent_weather_rule(settings), spans_to_train_on(settings.data),
          spans_to_validate_on(settings.data), index_archive(world, settings.data.archive)};
}

} // namespace pluvia
