#include "pluvia/ad/profile.hpp"

namespace pluvia {

void Profile::lap(std::size_t row, double Row::*seconds) {
  const Instant now(device_);
  laps_.push_back({row, seconds, last_, now});
  last_ = now;
}

void Profile::start() {
  last_ = Instant(device_);
}

std::size_t Profile::forward(const Work& work, const Shape& s) {
  const auto [found, fresh] =
      index_.try_emplace({work.name, work.inputs, s.b, s.t, s.y, s.x, s.c}, rows_.size());
  if (fresh) rows_.push_back({work.name, work.inputs, s});
  Row& row = rows_[found->second];
  ++row.calls;
  row.flop += work.flop;
  row.pull_flop += work.pull_flop;
  lap(found->second, &Row::forward_seconds);
  return found->second;
}

void Profile::pull(std::size_t row) {
  lap(row, &Row::pull_seconds);
}

const std::vector<Profile::Row>& Profile::rows() {
  for (const Lap& lap : laps_) rows_[lap.row].*lap.seconds += lap.end.since(lap.begin);
  laps_.clear();
  return rows_;
}

} // namespace pluvia
