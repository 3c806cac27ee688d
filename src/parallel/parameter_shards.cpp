#include "pluvia/parallel/parameter_shards.hpp"

#include <algorithm>
#include <utility>

namespace pluvia {

namespace {

/// Values that travel at once, 4 MiB: they stay in the caches between the copies and the message.
constexpr Index at_once = Index{1} << 20;

std::span<float> part(std::span<float> values, Index from, Index size) {
  return values.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(size));
}

} // namespace

ParameterShards::ParameterShards(const Communicator& comm, std::vector<Parameter*> parameters)
    : comm_(comm), parameters_(std::move(parameters)), begins_{0} {
  for (const Parameter* p : parameters_)
    begins_.push_back(begins_.back() + static_cast<Index>(p->value.storage().size()));
  own_ = cut(run_of(comm_.rank()));
}

Span ParameterShards::run_of(int rank) const {
  const Index all = begins_.back(), each = most_of(all, comm_.size());
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

void ParameterShards::gather() {
  if (comm_.size() == 1) return;
  const Index longest = run_of(0).size(), most = std::max<Index>(1, at_once / comm_.size());
  std::vector<float> buffer;
  for (Index done = 0; done < longest; done += most) {
    const Index each = std::min(most, longest - done);
    buffer.resize(static_cast<std::size_t>(each * comm_.size()));
    // The last ranks may have less than the others: then the rest of their places means nothing.
    const auto for_pieces = [&](int rank, auto&& visit) {
      const Span run = run_of(rank);
      for (const Piece& p :
           cut({std::min(run.to, run.from + done), std::min(run.to, run.from + done + each)}))
        visit(p, part(buffer, rank * each + p.at, p.values.size()));
    };
    for_pieces(comm_.rank(), [](const Piece& p, std::span<float> to) {
      read_values(p.parameter->value, p.values.from, to);
    });
    comm_.all_gather(buffer);
    for (int rank = 0; rank < comm_.size(); ++rank)
      if (rank != comm_.rank())
        for_pieces(rank, [](const Piece& p, std::span<float> from) {
          write_values(p.parameter->value, p.values.from, from);
        });
  }
}

} // namespace pluvia
