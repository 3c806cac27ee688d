#include "pluvia/parallel/gradient_sync.hpp"

#include <algorithm>

namespace pluvia {

void sum_gradients(const Communicator& comm, const std::vector<Parameter*>& parameters) {
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
