#pragma once
#include "pluvia/core/order_free_sums.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/ops/attention.hpp"

namespace pluvia {

// Linear attention over all cells j of a domain (Katharopoulos et al. 2020, arXiv:2006.16236), for each
// sample, frame and head of 16 channels by itself: with phi(u) = elu(u) + 1,
//   S = sum_j phi(k_j)' v_j,  z = sum_j phi(k_j),  o = phi(q) S / (phi(q) . z + 1e-6).
// A tile adds what its cells give to S and z, which then are all that a query needs to know of the domain.
// Values are summed within each coarsest cell, rows in order, and these sums order-free: since tiles hold
// whole coarsest cells, the bits depend neither on the tiling nor on the thread count.

/// S and z times `factor`, a power of two near one over the number of cells: o is the same, and gradients of
/// large domains do not fall below what order-free sums resolve.
struct DomainSums {
  Tensor values; ///< [B, T, 1, C / 16, 17 x 16]: the rows of S, then z
  float factor = 1;
};

/// Of q, k, v and o [B, T, Y, X, C], all of one shape.
Shape domain_sums_shape(const Shape& s);

/// Adds the tile's share of S and z to empty sums, laid out as there; `side` is that of a coarsest cell. Local.
void add_keys(const Tensor& k, const Tensor& v, Index side, OrderFreeSums& sums);

/// o of the tile's queries. Local.
void attend_domain(const Tensor& q, const DomainSums& sums, Tensor& o);

/// Gradients of the tile's queries; adds its share of those of S and z, over `factor`. Local.
void pull_domain_queries(const Tensor& q, const Tensor& o, const Tensor& d_o, const DomainSums& sums,
                         Index side, Tensor& dq, OrderFreeSums& d_sums);

/// Gradients of the tile's keys and values by those of S and z. Local.
void pull_domain_keys(const Tensor& k, const Tensor& v, const Tensor& d_sums, Tensor& dk, Tensor& dv);

} // namespace pluvia
