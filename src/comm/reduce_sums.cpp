#include "pluvia/comm/reduce_sums.hpp"

#include <vector>

namespace pluvia {

void all_reduce(const Communicator& comm, std::span<FixedSum> sums) {
  std::vector<std::int64_t> limbs;
  limbs.reserve(3 * sums.size());
  for (FixedSum& sum : sums) {
    sum.carry();
    limbs.push_back(sum.high);
    limbs.push_back(sum.low);
    limbs.push_back(sum.lost);
  }
  comm.all_reduce(limbs, Reduce::sum);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] = {limbs[3 * i], limbs[3 * i + 1], limbs[3 * i + 2]};
    sums[i].carry();
  }
}

void all_reduce(const Communicator& comm, OrderFreeSums& sums) {
  if (comm.size() == 1) return;
  sums.carry();
  comm.all_reduce(sums.limbs(), Reduce::sum);
}

} // namespace pluvia
