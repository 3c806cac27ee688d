#pragma once
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Sums every parameter's gradient over the ranks in one message: the transpose of replicating the
/// parameters. Where they are collected in order-free sums, these are added and rounded: the same bits on every
/// process grid whose tiles begin on whole blocks. Collective.
void sum_gradients(const Communicator& comm, const std::vector<Parameter*>& parameters);

} // namespace pluvia
