#pragma once
#include <span>
#include <vector>

#include "pluvia/core/settings.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// Half-open range of times.
struct TimeSpan {
  Time from = 0, to = 0;
  bool operator==(const TimeSpan&) const = default;
};

/// An end that is not set lies beyond any archive. Throws a usage Error when an end is not a time.
TimeSpan parse_span(const TimeRange& range);

/// What is left of a span without others: in order of time, none empty.
std::vector<TimeSpan> without(const TimeSpan& span, std::vector<TimeSpan> others);

/// data.train without what it shares with data.validate and data.test: nothing is trained on, counted into
/// a climatology or fitted to a reference that is judged by later. Ranges inside data.train thus cut it in
/// two, as in a rotation over test days.
std::vector<TimeSpan> training_spans(const DataSettings& data);

/// True when a span holds the whole window that ends at `end`: from <= end - window and end < to.
bool hold_window(std::span<const TimeSpan> spans, Time end, Time window);

} // namespace pluvia
