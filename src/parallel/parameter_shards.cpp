#include "pluvia/parallel/parameter_shards.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

namespace pluvia {

namespace {

/// Values that travel at once, 4 MiB: they stay in the caches between the copies and the message.
constexpr Index at_once = Index{1} << 20;

std::span<float> part(std::span<float> values, Index from, Index size) {
  return values.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(size));
}

} // namespace

ParameterShards::ParameterShards(const Communicator& comm, std::vector<Parameter*> parameters, int most)
    : comm_(comm), first_(group_of(comm.rank(), comm.size(), most) == 0),
      group_(comm.split(group_of(comm.rank(), comm.size(), most), comm.rank())),
      parameters_(std::move(parameters)), begins_{0} {
  for (const Parameter* p : parameters_)
    begins_.push_back(begins_.back() + static_cast<Index>(p->value.storage().size()));
  own_ = cut(run_of(group_.rank()));
}

void ParameterShards::link_accelerators() {
  if (group_.size() > 1) link_ = std::make_unique<DeviceLink>(group_);
}

Span ParameterShards::run_of(int rank) const {
  const Index all = begins_.back(), each = (all + group_.size() - 1) / group_.size();
  return {std::min(all, rank * each), std::min(all, (rank + 1) * each)};
}

std::vector<ParameterShards::Piece> ParameterShards::cut(Span run) const {
  std::vector<Piece> out;
  const auto first = std::ranges::upper_bound(begins_, run.from) - begins_.begin() - 1;
  for (auto i = static_cast<std::size_t>(first); i < parameters_.size() && begins_[i] < run.to; ++i) {
    const Span values = intersect(run, {begins_[i], begins_[i + 1]});
    if (values.size() > 0)
      out.push_back({parameters_[i], shifted(values, -begins_[i]), values.from - run.from});
  }
  return out;
}

std::vector<float> ParameterShards::values() const {
  std::vector<float> out(static_cast<std::size_t>(size()));
  for (const Piece& p : own_)
    read_values(p.parameter->value, p.values.from, part(out, p.at, p.values.size()));
  return out;
}

void ParameterShards::set_values(std::span<const float> own) {
  for (const Piece& p : own_)
    write_values(p.parameter->value, p.values.from,
                 own.subspan(static_cast<std::size_t>(p.at), static_cast<std::size_t>(p.values.size())));
  gather();
}

bool ParameterShards::agree() const {
  if (group_.size() == comm_.size()) return true;
  std::uint64_t digest = 0; // of bits and places (multiplicative hashing, Knuth 1998, 6.4)
  for (const Parameter* p : parameters_)
    for (const float v : values_of(p->value))
      digest = (digest ^ std::bit_cast<std::uint32_t>(v)) * 0x9e3779b97f4a7c15U;
  const auto mine = static_cast<std::int64_t>(digest >> 1);
  std::int64_t most[] = {mine, -mine};
  comm_.all_reduce(most, Reduce::max);
  return most[0] == -most[1];
}

void ParameterShards::gather() {
  if (group_.size() == 1) return;
  if (link_) {
    std::vector<DeviceLink::Message> all;
    for (int rank = 0; rank < group_.size(); ++rank)
      for (const Piece& p : cut(run_of(rank)))
        all.push_back({rank, p.parameter->value.storage().data() + p.values.from,
                       static_cast<std::size_t>(p.values.size())});
    link_->start_broadcasts(all);
    return link_->finish();
  }
  const Index longest = run_of(0).size(), most = std::max<Index>(1, at_once / group_.size());
  std::vector<float> buffer;
  for (Index done = 0; done < longest; done += most) {
    const Index each = std::min(most, longest - done);
    buffer.resize(static_cast<std::size_t>(each * group_.size()));
    // The last ranks may have less than the others: then the rest of their places means nothing.
    const auto for_pieces = [&](int rank, auto&& visit) {
      const Span run = run_of(rank);
      for (const Piece& p :
           cut({std::min(run.to, run.from + done), std::min(run.to, run.from + done + each)}))
        visit(p, part(buffer, rank * each + p.at, p.values.size()));
    };
    for_pieces(group_.rank(), [](const Piece& p, std::span<float> to) {
      read_values(p.parameter->value, p.values.from, to);
    });
    group_.all_gather(buffer);
    for (int rank = 0; rank < group_.size(); ++rank)
      if (rank != group_.rank())
        for_pieces(rank, [](const Piece& p, std::span<float> from) {
          write_values(p.parameter->value, p.values.from, from);
        });
  }
}

} // namespace pluvia
