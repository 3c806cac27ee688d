#pragma once
#include <cstdint>
#include <span>

#include "pluvia/core/fixed_sum.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/ops/attention.hpp"
#include "pluvia/ops/conv3d.hpp"
#include "pluvia/ops/norm.hpp"
#include "pluvia/ops/output_parts.hpp"
#include "pluvia/ops/pointwise.hpp"

// The operators on the accelerator. What the operators' own headers say of shapes, margins and equations
// holds here; pointers are to the accelerator's memory, and a view without an origin stands for what is left
// out. In f32 every value is the same chain of roundings as on the processor, but for sums of gradients over
// cells, which are cut otherwise. Local.
namespace pluvia::kernels {

void gelu(const ConstView& x, const View& y);
void gelu_gradient(const ConstView& x, const ConstView& dy, const View& dx);
/// The factors of all channels [C].
void draw_channels(const Dropout& dropout, std::uint64_t layer, const View& scale);
void scale_channels(const ConstView& x, const float* scale, const View& y);
void blend(const ConstView& g, const ConstView& a, const ConstView& b, const View& y);
void blend_gradients(const ConstView& g, const ConstView& a, const ConstView& b, const ConstView& dy,
                     const View& dg, const View& da, const View& db);

void merge(const ConstView& fine, const View& coarse);
void copy_cells(const ConstView& from, const View& to, Index height, Index width);
void unmerge(const ConstView& coarse, const ConstView& addend, const View& fine);

void layer_norm(Activation activation, const ConstView& x, const float* gain, const float* bias,
                const View& y);
/// Adds to the gradients of gain and bias.
void layer_norm_gradients(Activation activation, const ConstView& x, const ConstView& dy, const float* gain,
                          const float* bias, const View& dx, float* dgain, float* dbias);

/// to[c] += sum over cells of x, C values. Chunks of cells are summed by themselves, and their sums alike.
void add_channel_sums(const ConstView& x, float* to);

/// w [taps, C_in, C_out]; with `transpose`, the weights of the gradient of the input: y has C_in channels.
enum class Weights { as_they_are, transposed };
/// What is inside is asked for before the arrival.
void convolve(Precision precision, const ConstView& x, const float* weight, Weights form,
              const Stencil& stencil, const float* bias, const ConstView& residual, const View& y,
              const Split& split = {}, const Arrival& arrival = {});
/// Adds to dw, and to db where that is not null.
void convolve_weight_gradient(Precision precision, const ConstView& x, const ConstView& dy,
                              const Stencil& stencil, float* dw, float* db);

/// Where parts are given, of the queries in these alone.
void attend(const ConstView& q, const ConstView& k, const ConstView& v, const AttentionWindow& window,
            TileOrigin origin, const View& o, const View& log_sum, std::span<const OutputPart> parts = {});
void attend_delta(const ConstView& d_o, const ConstView& o, const View& delta);
/// dq of this tile's queries; where they are shared, of each cell by itself: [B, leads, Y, X, C].
void pull_queries(const ConstView& q, const ConstView& k, const ConstView& v, const ConstView& d_o,
                  const ConstView& log_sum, const ConstView& delta, const AttentionWindow& window,
                  TileOrigin origin, const View& dq);
/// All of `to` [1, all leads, 1, 1, C]: for each lead from `first` on, the sum over samples and cells of x
/// [B, leads, Y, X, C], and zero for the others.
void sum_over_cells(const ConstView& x, Index first, const View& to);
/// `held`: the frames or leads of queries that are at hand.
void pull_keys(const ConstView& q, const ConstView& k, const ConstView& v, const ConstView& d_o,
               const ConstView& log_sum, const ConstView& delta, const AttentionWindow& window,
               TileOrigin origin, Span held, const View& dk, const View& dv);

/// Sums of add_keys and of pull_domain_queries as limbs of order-free sums, laid out as these.
void add_keys(const ConstView& k, const ConstView& v, Index side, std::int64_t* limbs);
void attend_domain(const ConstView& q, const ConstView& sums, float factor, const View& o);
void pull_domain_queries(const ConstView& q, const ConstView& o, const ConstView& d_o, const ConstView& sums,
                         float factor, Index side, const View& dq, std::int64_t* limbs);
void pull_domain_keys(const ConstView& k, const ConstView& v, const ConstView& d_sums, const View& dk,
                      const View& dv);

/// Frame t of `from`, rows from `row` on, and back.
void take_rows(const ConstView& from, Index t, Index row, const View& part);
void put_rows(const ConstView& part, const View& to, Index t, Index row);
/// One frame of the gates of recur(), in place, and of its pull-back.
void step_gates(const View& gates, const View& hidden, const View& memory);
void pull_gates(const View& gates, const ConstView& d_hidden, const ConstView& memory_record, Index t,
                Index row, const View& hidden, const View& memory);

/// classes [cells], weights [rows]: of ordinal_loss, which is added to *sum; grad may have no origin.
void ordinal_loss(const ConstView& logits, const std::int8_t* classes, const float* weights, FixedSum* sum,
                  const View& grad);

} // namespace pluvia::kernels
