// What stands in for tensors, operators, profiles and sums that travel, so that a thousand ranks of the
// program fit into one process: values are never computed, and all tensors share one memory, which messages
// are copied from and to. (smpirun -no-privatize leaves globals to all ranks.) Instead of computing, an
// operator charges its rank's clock.
#include "stand_ins.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

#include "clock.hpp"
#include "pluvia/ad/profile.hpp"
#include "pluvia/comm/pending_sums.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/ops/attention.hpp"
#include "pluvia/ops/conv3d.hpp"
#include "pluvia/ops/convolution_gradients.hpp"
#include "pluvia/ops/linear_attention.hpp"
#include "pluvia/ops/norm.hpp"
#include "pluvia/ops/pointwise.hpp"
#include "pluvia/ops/recurrence.hpp"
#include "pluvia/ops/resample.hpp"
#include "pluvia/parallel/stencil.hpp"

namespace pluvia {

namespace {

const Measured* all_measured = nullptr;

void work(double seconds) {
  RankClock::mine().work(seconds);
}

/// To `y` with weights [t, y, x, C_in, C_out].
Task convolution_task(const Shape& y, Index taps, Index c_in, Index c_out) {
  const double flop = 2.0 * static_cast<double>(y.cells() * taps * c_in * c_out);
  return {taps == 1 ? "linear" : "conv3d", c_in, c_out, y.b * y.t, flop, y.y * y.x};
}

Task attention_task(const Tensor& k, const Shape& queries, const AttentionWindow& window, TileOrigin origin) {
  const Index c = k.shape().c;
  const double flop = 4.0 * attended_pairs(queries, window, origin) * static_cast<double>(c);
  return {attention_name(window), c, c, queries.t, flop, queries.y * queries.x};
}

Task domain_task(const Shape& s) {
  return {"attention (global)",
          s.c,
          s.c,
          s.t,
          4.0 * (head_channels + 1) * static_cast<double>(s.size()),
          s.y * s.x};
}

Task recurrence_task(const Shape& hidden) {
  const double flop = 8.0 * static_cast<double>(hidden.size() * hidden.c);
  return {"recurrence", hidden.c, hidden.c, hidden.t, flop, hidden.y * hidden.x};
}

} // namespace

void set_measured(const Measured& measured) {
  all_measured = &measured;
}
const Measured& measured() {
  return *all_measured;
}

// core/tensor.hpp

void Tensor::Free::operator()(float*) const {}

Tensor::Tensor(Shape s, Margin m, Device device, Place) : shape_(s), margin_(m) {
  constexpr std::size_t most = std::size_t{1} << 36;
  static void* const memory =
      mmap(nullptr, most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  stride_y_ = (s.x + m.x_lo + m.x_hi) * s.c;
  stride_t_ = (s.y + m.y_lo + m.y_hi) * stride_y_;
  stride_b_ = (s.t + m.t_lo + m.t_hi) * stride_t_;
  size_ = static_cast<std::size_t>(s.b * stride_b_);
  if (memory == MAP_FAILED || size_ * sizeof(float) > most) throw std::bad_alloc();
  data_ = {static_cast<float*>(memory), Free(device)};
  origin_ = data_.get() + m.t_lo * stride_t_ + m.y_lo * stride_y_ + m.x_lo * s.c;
}
Tensor Tensor::zeros(Shape s, Margin m, Device device) {
  return Tensor(s, m, device);
}
Tensor Tensor::apart(Shape s, Margin m) {
  return Tensor(s, m);
}
void Tensor::fill(float) {}
void Tensor::discard_rows(Index) {}
Tensor Tensor::clone(Margin m) const {
  return Tensor(shape_, m, device());
}
Tensor Tensor::to(Device device) const {
  return Tensor(shape_, margin_, device);
}
Tensor moved(Tensor&& tensor, Device) {
  return std::move(tensor);
}
std::vector<float> values_of(const Tensor& tensor) {
  return std::vector<float>(tensor.storage().size());
}
void set_values(Tensor&, std::span<const float>) {}
void read_values(const Tensor&, Index, std::span<float>) {}
void write_values(Tensor&, Index, std::span<const float>) {}
void add_to(Tensor&, const Tensor&) {}

// ad/profile.hpp: what the tape books and no operator below charges.

std::size_t Profile::forward(const Work& of, const Shape& s) {
  if (of.name == "own channels") RankClock::mine().copy(s.size() * static_cast<Index>(sizeof(float)));
  return 0;
}
void Profile::start() {}
void Profile::pull(std::size_t) {}

// comm/pending_sums.hpp

template <class T> PendingSums<T>::~PendingSums() = default;
template <class T> void PendingSums<T>::start(std::vector<T> share) {
  RankClock::mine().start_sum(comm_.raw(), static_cast<std::int64_t>(share.size() * sizeof(T)));
  advance();
}
template <class T> bool PendingSums<T>::advance() {
  return RankClock::mine().advance_sums();
}
template <class T> std::vector<std::vector<T>> PendingSums<T>::finish() {
  std::vector<std::vector<T>> out;
  for (const std::int64_t bytes : RankClock::mine().finish_sums())
    out.emplace_back(static_cast<std::size_t>(bytes) / sizeof(T));
  return out;
}
template class PendingSums<float>;
template class PendingSums<std::int64_t>;

// ops/conv3d.hpp, ops/convolution_gradients.hpp

void convolution(Precision, const Tensor&, const Tensor& weight, const Stencil& stencil, const float*,
                 const Tensor*, Tensor& y, const Split& split, const Arrival& arrival) {
  const Shape &w = weight.shape(), &s = y.shape();
  const auto whole = measured().of(convolution_task(s, stencil.taps(), w.x, w.c)).forward;
  compute_around(arrival, split, [&](std::span<const OutputPart> parts) {
    Index cells = parts.empty() ? s.t * s.y * s.x : 0;
    for (const OutputPart& p : parts) cells += p.t.size() * p.y.size() * p.x.size();
    work(whole * static_cast<double>(s.b * cells) / static_cast<double>(s.cells()));
  });
}
void convolution_pull_input(Precision, const Tensor& dy, const Tensor& weight, const Stencil& stencil,
                            const Tensor*, Tensor&) {
  const Shape& w = weight.shape();
  const Task task = convolution_task(dy.shape(), stencil.taps(), w.x, w.c);
  work(measured().of(task).backward * (1 - measured().weight_share(task)));
}
void pull_convolution_weight(const GradientBlocks& blocks, Precision, const Tensor&, const Tensor& dy,
                             const Stencil& stencil, Parameter& weight, Parameter* bias) {
  const Shape& w = weight.value.shape();
  Shape hidden = dy.shape(); // of a recurrence, whose weights alone have no bias
  hidden.c = w.x;
  const Task task = bias ? convolution_task(dy.shape(), stencil.taps(), w.x, w.c) : recurrence_task(hidden);
  work(measured().of(task).backward * measured().weight_share(task) / blocks.members);
}

// ops/attention.hpp, ops/linear_attention.hpp

namespace {

/// Share of the queries whose keys all lie in the tile and its frames: what attend() computes first.
double inside(const Shape& queries, const Shape& keys, const AttentionWindow& window, TileOrigin origin) {
  const auto along = [](const AxisWindow& axis, Index query, Index count, Index from, Index extent) {
    Index in = 0;
    for (Index i = query; i < query + count; ++i)
      in += axis.keys(i).from >= from && axis.keys(i).to <= from + extent ? 1 : 0;
    return static_cast<double>(in) / static_cast<double>(count);
  };
  return along(window.t, origin.query_frame, queries.t, origin.key_frame, keys.t) *
         along(window.y, origin.y, queries.y, origin.y, keys.y) *
         along(window.x, origin.x, queries.x, origin.x, keys.x);
}

void work_around(const Arrival& arrival, double seconds, double before) {
  if (!arrival) return work(seconds);
  work(before * seconds);
  arrival();
  work((1 - before) * seconds);
}

} // namespace

void attend(const Tensor&, const Tensor& k, const Tensor&, const AttentionWindow& window, TileOrigin origin,
            Tensor& o, Tensor&, const Arrival& arrival) {
  const double seconds = measured().of(attention_task(k, o.shape(), window, origin)).forward;
  work_around(arrival, seconds, arrival ? inside(o.shape(), k.shape(), window, origin) : 1);
}
void attend_delta(const Tensor&, const Tensor&, Tensor&) {}
/// Gradients of queries first: three products of seven.
void attend_gradients(const Tensor&, const Tensor& k, const Tensor&, const Tensor& d_o, const Tensor&,
                      const Tensor&, const AttentionWindow& window, TileOrigin origin, Tensor* dq, Tensor&,
                      Tensor&, OrderFreeSums*, const Arrival& arrival) {
  work_around(arrival, measured().of(attention_task(k, d_o.shape(), window, origin)).backward,
              dq ? 3.0 / 7 : 0);
}
// The passes over queries and over keys take half each.
void add_keys(const Tensor& k, const Tensor&, Index, OrderFreeSums&) {
  work(measured().of(domain_task(k.shape())).forward / 2);
}
void attend_domain(const Tensor& q, const DomainSums&, Tensor&) {
  work(measured().of(domain_task(q.shape())).forward / 2);
}
void pull_domain_queries(const Tensor& q, const Tensor&, const Tensor&, const DomainSums&, Index, Tensor&,
                         OrderFreeSums&) {
  work(measured().of(domain_task(q.shape())).backward / 2);
}
void pull_domain_keys(const Tensor& k, const Tensor&, const Tensor&, Tensor&, Tensor&) {
  work(measured().of(domain_task(k.shape())).backward / 2);
}

// ops/recurrence.hpp

void recur(Precision, const Tensor&, const Tensor&, Span rows, CellState&, RecurrenceRecord*,
           Tensor& hidden) {
  const Shape& s = hidden.shape();
  work(measured().of(recurrence_task(s)).forward * static_cast<double>(rows.size()) /
       static_cast<double>(s.y));
}
void recur_gradients(Precision, const Tensor& d_hidden, const Tensor&, Span rows, const RecurrenceRecord&,
                     CellState&, Tensor&) {
  const Shape& s = d_hidden.shape();
  const Task task = recurrence_task(s);
  work(measured().of(task).backward * (1 - measured().weight_share(task)) * static_cast<double>(rows.size()) /
       static_cast<double>(s.y));
}

// ops/norm.hpp, ops/pointwise.hpp, ops/resample.hpp

namespace {

/// A value of some shape, of which gradients flow to some others.
Var local(Tape& tape, const Work& of, const Shape& s, Margin margin, std::vector<Var> inputs,
          const std::vector<Parameter*>& parameters = {}) {
  const Seconds took = measured().of({of.name, of.inputs, s.c, s.t, 0, s.y * s.x});
  work(took.forward);
  const auto pull = [took, inputs = std::move(inputs)](Node&) {
    work(took.backward);
    for (const Var& x : inputs)
      if (x) accumulate(*x, Tensor(x->value.shape(), x->grad_margin));
  };
  return tape.record(Tensor(s, margin), of, pull, {}, parameters);
}

} // namespace

Var layer_norm(Tape& tape, const Var& x, Parameter& gain, Parameter& bias, Activation, Margin out_margin) {
  const Shape& s = x->value.shape();
  return local(tape, {"layer_norm", s.c}, s, out_margin, {x}, {&gain, &bias});
}
Var gelu(Tape& tape, const Var& x, Margin out_margin) {
  const Shape& s = x->value.shape();
  return local(tape, {"gelu", s.c}, s, out_margin, {x});
}
Var blend(Tape& tape, const Var& g, const Var& a, const Var& b) {
  const Shape& s = g->value.shape();
  return local(tape, {"blend", s.c}, s, {}, {g, a, b});
}
Var merge(Tape& tape, const Var& x) {
  const Shape& f = x->value.shape();
  return local(tape, {"merge", f.c}, {f.b, f.t, (f.y + 1) / 2, (f.x + 1) / 2, 4 * f.c}, {}, {x});
}
Var unmerge(Tape& tape, const Var& x, Index height, Index width, const Var& addend) {
  const Shape& s = x->value.shape();
  return local(tape, {"unmerge", s.c}, {s.b, s.t, height, width, s.c / 4}, {}, {x, addend});
}

} // namespace pluvia
