#include "pluvia/parallel/global_attention.hpp"

#include <cmath>
#include <memory>

#include "pluvia/comm/reduce_sums.hpp"
#include "pluvia/ops/linear_attention.hpp"

namespace pluvia {

namespace {

/// What the tiles of a communicator's ranks add up to, times a factor. Collective.
Tensor over_domain(const Communicator& comm, OrderFreeSums& sums, const Shape& shape, float factor,
                   Device device) {
  all_reduce(comm, sums);
  Tensor out(shape);
  sums.round_to(out.storage());
  for (float& v : out.storage()) v *= factor;
  return moved(std::move(out), device);
}

OrderFreeSums empty_sums(const Shape& shape) {
  return OrderFreeSums(static_cast<std::size_t>(shape.size()));
}

} // namespace

Var global_attention(Tape& tape, Decomposition& tiles, int level, Index side, const Var& q, const Var& k,
                     const Var& v) {
  const Device device = q->value.device();
  const Shape s = q->value.shape(), summed = domain_sums_shape(s);
  const float factor = std::ldexp(1.0F, -std::ilogb(static_cast<double>(tiles.domain(level).cells())));
  OrderFreeSums sums = empty_sums(summed);
  add_keys(k->value, v->value, side, sums);
  const auto domain = std::make_shared<DomainSums>(
      DomainSums{over_domain(tiles.space(), sums, summed, factor, device), factor});
  Tensor o(s, {}, device);
  attend_domain(q->value, *domain, o);

  const auto pull = [&tiles, q, k, v, s, summed, side, domain, device](Node& node) {
    Tensor dq(s, q->grad_margin, device), dk(s, k->grad_margin, device), dv(s, v->grad_margin, device);
    OrderFreeSums sums = empty_sums(summed);
    pull_domain_queries(q->value, node.value, node.grad, *domain, side, dq, sums);
    const Tensor d_sums = over_domain(tiles.space(), sums, summed, domain->factor, device);
    pull_domain_keys(k->value, v->value, d_sums, dk, dv);
    accumulate(*q, std::move(dq));
    accumulate(*k, std::move(dk));
    accumulate(*v, std::move(dv));
  };
  // Products of a cell's 16 channels with S and z: two forward, four backward.
  const double flop = 4.0 * (head_channels + 1) * static_cast<double>(s.size());
  return tape.record(std::move(o), {"attention (global)", s.c, flop, 2 * flop}, pull);
}

} // namespace pluvia
