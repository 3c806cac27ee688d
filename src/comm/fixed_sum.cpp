#include "pluvia/comm/fixed_sum.hpp"

#include <vector>

namespace pluvia {

void all_reduce(const Communicator& comm, std::span<FixedSum> sums) {
  std::vector<std::int64_t> limbs;
  limbs.reserve(2 * sums.size());
  for (FixedSum& sum : sums) {
    sum.carry();
    limbs.push_back(sum.high);
    limbs.push_back(sum.low);
  }
  comm.all_reduce(limbs, Reduce::sum);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] = {limbs[2 * i], limbs[2 * i + 1]};
    sums[i].carry();
  }
}

} // namespace pluvia
