#include "pluvia/parallel/gradient_sync.hpp"

#include <algorithm>

namespace pluvia {

namespace {

void sum_in_blocks(const Communicator& comm, const std::vector<Parameter*>& parameters) {
  std::vector<std::int64_t> all;
  if (comm.size() > 1) {
    for (Parameter* p : parameters) {
      const auto limbs = p->sums.limbs();
      all.insert(all.end(), limbs.begin(), limbs.end());
    }
    comm.all_reduce(std::span(all), Reduce::sum);
  }
  auto from = all.cbegin();
  for (Parameter* p : parameters) {
    if (comm.size() > 1) {
      const auto limbs = p->sums.limbs();
      std::copy_n(from, limbs.size(), limbs.begin());
      from += static_cast<std::ptrdiff_t>(limbs.size());
    }
    p->sums.round_to(p->grad.storage());
  }
}

} // namespace

void sum_gradients(const Communicator& comm, const std::vector<Parameter*>& parameters) {
  if (!parameters.empty() && !parameters.front()->sums.empty()) return sum_in_blocks(comm, parameters);
  if (comm.size() == 1) return;
  std::vector<float> all;
  for (const Parameter* p : parameters) {
    const auto grad = p->grad.storage();
    all.insert(all.end(), grad.begin(), grad.end());
  }
  comm.all_reduce(std::span<float>(all), Reduce::sum);
  auto from = all.cbegin();
  for (Parameter* p : parameters) {
    const auto grad = p->grad.storage();
    std::copy_n(from, grad.size(), grad.begin());
    from += static_cast<std::ptrdiff_t>(grad.size());
  }
}

} // namespace pluvia
