#include "pluvia/data/time_spans.hpp"

#include <algorithm>
#include <limits>

namespace pluvia {

TimeSpan parse_span(const TimeRange& range) {
  constexpr Time open = std::numeric_limits<Time>::max() / 4;
  return {range.from.empty() ? -open : parse_time(range.from),
          range.to.empty() ? open : parse_time(range.to)};
}

std::vector<TimeSpan> without(const TimeSpan& span, std::vector<TimeSpan> others) {
  std::ranges::sort(others, {}, &TimeSpan::from);
  std::vector<TimeSpan> out;
  Time from = span.from;
  for (const TimeSpan& other : others) {
    if (const Time to = std::min(other.from, span.to); from < to) out.push_back({from, to});
    from = std::max(from, other.to);
  }
  if (from < span.to) out.push_back({from, span.to});
  return out;
}

std::vector<TimeSpan> training_spans(const DataSettings& data) {
  std::vector<TimeSpan> judged;
  for (const TimeRange& range : {data.validate, data.test})
    if (!range.from.empty() && !range.to.empty()) judged.push_back(parse_span(range));
  return without(parse_span(data.train), std::move(judged));
}

bool hold_window(std::span<const TimeSpan> spans, Time end, Time window) {
  return std::ranges::any_of(
      spans, [&](const TimeSpan& span) { return end - window >= span.from && end < span.to; });
}

} // namespace pluvia
