#include "pluvia/ops/recurrence.hpp"

#include <cassert>
#include <cstring>

#include "kernels.hpp"
#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

namespace {

/// Calls f(b, row of the part, row of the tile) for the rows of a part.
template <class F> void for_rows(const Shape& part, Span rows, F&& f) {
  parallel_for(part.b * part.y, [&](Index i) { f(i / part.y, i % part.y, i % part.y + rows.from); });
}

std::size_t row_bytes(const Shape& s) {
  return static_cast<std::size_t>(s.x * s.c) * sizeof(float);
}

/// Some rows of a frame as a tensor of their own, and back.
Tensor take(const Tensor& from, Index t, Span rows) {
  const Shape s = from.shape();
  Tensor out({s.b, 1, rows.size(), s.x, s.c}, {}, from.device());
  if (from.device() == Device::gpu) {
    kernels::take_rows(from.view(), t, rows.from, out.view());
    return out;
  }
  for_rows(out.shape(), rows, [&](Index b, Index y, Index of_tile) {
    std::memcpy(out.cell(b, 0, y, 0), from.cell(b, t, of_tile, 0), row_bytes(s));
  });
  return out;
}
void put(const Tensor& part, Tensor& to, Index t, Span rows) {
  if (part.device() == Device::gpu) return kernels::put_rows(part.view(), to.view(), t, rows.from);
  for_rows(part.shape(), rows, [&](Index b, Index y, Index of_tile) {
    std::memcpy(to.cell(b, t, of_tile, 0), part.cell(b, 0, y, 0), row_bytes(part.shape()));
  });
}

/// The four gates lie one after another in a cell's channels.
struct Gates {
  float *in, *forget, *out, *fresh;
  Gates(float* cell, Index c) : in(cell), forget(cell + c), out(cell + 2 * c), fresh(cell + 3 * c) {}
};

} // namespace

CellState zero_state(const Shape& hidden, Index rows, Device device) {
  const Shape s{hidden.b, 1, rows, hidden.x, hidden.c};
  return {Tensor::zeros(s, {}, device), Tensor::zeros(s, {}, device)};
}

RecurrenceRecord make_recurrence_record(const Shape& hidden, Device device) {
  Shape four = hidden;
  four.c *= 4;
  return {Tensor(four, {}, device), Tensor(hidden, {.t_lo = 1}, device), Tensor(hidden, {}, device)};
}

namespace {

/// From what the gates are to be to what they are; the state goes one frame on.
void step_gates(Tensor& gates, CellState& state) {
  if (gates.device() == Device::gpu)
    return kernels::step_gates(gates.view(), state.hidden.view(), state.memory.view());
  const Shape& s = state.hidden.shape();
  for_rows(s, {0, s.y}, [&](Index b, Index y, Index) {
    for (Index x = 0; x < s.x; ++x) {
      const Gates g(gates.cell(b, 0, y, x), s.c);
      float *h = state.hidden.cell(b, 0, y, x), *c = state.memory.cell(b, 0, y, x);
      for (Index i = 0; i < s.c; ++i) {
        g.in[i] = sigmoid(g.in[i]), g.forget[i] = sigmoid(g.forget[i]), g.out[i] = sigmoid(g.out[i]);
        g.fresh[i] = tanh_f32(g.fresh[i]);
        c[i] = std::fma(g.forget[i], c[i], g.in[i] * g.fresh[i]);
        h[i] = g.out[i] * tanh_f32(c[i]);
      }
    }
  });
}

/// From the gates of frame t to their gradients; that of the memory goes one frame back.
void pull_gates(Tensor& gates, const Tensor& d_hidden, const RecurrenceRecord& record, Index t, Span rows,
                CellState& state) {
  if (gates.device() == Device::gpu)
    return kernels::pull_gates(gates.view(), d_hidden.view(), record.memory.view(), t, rows.from,
                               state.hidden.view(), state.memory.view());
  const Shape& s = state.hidden.shape();
  for_rows(s, rows, [&](Index b, Index y, Index of_tile) {
    for (Index x = 0; x < s.x; ++x) {
      const Gates g(gates.cell(b, 0, y, x), s.c);
      const float *before = record.memory.cell(b, t - 1, of_tile, x),
                  *after = record.memory.cell(b, t, of_tile, x), *dy = d_hidden.cell(b, t, of_tile, x),
                  *later = state.hidden.cell(b, 0, y, x);
      float* dc = state.memory.cell(b, 0, y, x);
      for (Index i = 0; i < s.c; ++i) {
        const float dh = dy[i] + later[i], squashed = tanh_f32(after[i]);
        const float in = g.in[i], forget = g.forget[i], out = g.out[i], fresh = g.fresh[i];
        const float d = std::fma(dh * out, 1.0F - squashed * squashed, dc[i]);
        g.in[i] = d * fresh * in * (1.0F - in);
        g.forget[i] = d * before[i] * forget * (1.0F - forget);
        g.out[i] = dh * squashed * out * (1.0F - out);
        g.fresh[i] = d * in * (1.0F - fresh * fresh);
        dc[i] = d * forget;
      }
    }
  });
}

} // namespace

void recur(Precision precision, const Tensor& z, const Tensor& weight, Span rows, CellState& state,
           RecurrenceRecord* record, Tensor& hidden) {
  const Shape s = hidden.shape();
  if (record) put(state.memory, record->memory, -1, rows);
  for (Index t = 0; t < s.t; ++t) {
    if (record) put(state.hidden, record->hidden_before, t, rows);
    const Tensor fresh = take(z, t, rows);
    Tensor gates(fresh.shape(), {}, z.device());
    convolution(precision, state.hidden, weight, {}, nullptr, &fresh, gates);
    step_gates(gates, state);
    put(state.hidden, hidden, t, rows);
    if (!record) continue;
    put(gates, record->gates, t, rows);
    put(state.memory, record->memory, t, rows);
  }
}

void recur_gradients(Precision precision, const Tensor& d_hidden, const Tensor& weight, Span rows,
                     const RecurrenceRecord& record, CellState& state, Tensor& dz) {
  const Shape s = d_hidden.shape();
  for (Index t = s.t; t-- > 0;) {
    Tensor gates = take(record.gates, t, rows);
    pull_gates(gates, d_hidden, record, t, rows, state);
    put(gates, dz, t, rows);
    convolution_pull_input(precision, gates, weight, {}, nullptr, state.hidden);
  }
}

} // namespace pluvia
