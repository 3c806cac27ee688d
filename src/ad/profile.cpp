#include "pluvia/ad/profile.hpp"

namespace pluvia {

double Profile::lap() {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  return seconds;
}

std::size_t Profile::forward(const Work& work, const Shape& s) {
  const auto [found, fresh] =
      index_.try_emplace({work.name, work.inputs, s.b, s.t, s.y, s.x, s.c}, rows_.size());
  if (fresh) rows_.push_back({work.name, work.inputs, s});
  Row& row = rows_[found->second];
  ++row.calls;
  row.forward_seconds += lap();
  row.flop += work.flop;
  row.pull_flop += work.pull_flop;
  return found->second;
}

} // namespace pluvia
