#pragma once
#include <span>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/fixed_sum.hpp"
#include "pluvia/core/order_free_sums.hpp"

namespace pluvia {

/// Sums over all ranks, in place: the same bits on any number of ranks. Collective.
void all_reduce(const Communicator& comm, std::span<FixedSum> sums);
void all_reduce(const Communicator& comm, OrderFreeSums& sums);

} // namespace pluvia
