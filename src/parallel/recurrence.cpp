#include "pluvia/parallel/recurrence.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "pluvia/comm/relay.hpp"
#include "pluvia/ops/convolution_gradients.hpp"
#include "pluvia/ops/recurrence.hpp"

namespace pluvia {

namespace {

/// Takes the state of a strip from the part before, works on it and passes it on.
template <class Work> void relay(Relay& line, const Shape& hidden, Index rows, Device device, Work&& work) {
  CellState state = zero_state(hidden, rows, device);
  if (line.alone()) return work(state);
  const std::size_t half = state.hidden.storage().size();
  std::vector<float> message(2 * half);
  line.take(message);
  set_values(state.hidden, std::span(message).first(half));
  set_values(state.memory, std::span(message).subspan(half));
  work(state);
  std::ranges::copy(values_of(state.hidden), message.begin());
  std::ranges::copy(values_of(state.memory), message.begin() + static_cast<std::ptrdiff_t>(half));
  line.pass(std::move(message));
}

} // namespace

std::vector<Span> recurrence_strips(Index rows, int parts) {
  const Index n = parts > 1 ? std::min<Index>(rows, 8) : 1;
  std::vector<Span> out;
  for (Index i = 0; i < n; ++i) out.push_back({rows * i / n, rows * (i + 1) / n});
  return out;
}

Var recurrence(Tape& tape, Decomposition& tiles, const Var& z, Parameter& weight) {
  Shape s = z->value.shape();
  s.c /= 4;
  // The matrix unit sums 32 values at once, as in linear().
  const Precision precision = s.c < 32 ? Precision::f32 : tape.precision();
  const Device device = z->value.device();
  Tensor hidden(s, {}, device);
  std::shared_ptr<RecurrenceRecord> record;
  if (tape.recording()) record = std::make_shared<RecurrenceRecord>(make_recurrence_record(s, device));
  const std::vector<Span> strips = recurrence_strips(s.y, tiles.partition().time.parts());
  {
    Relay line(tiles.time(), Relay::Direction::up, tiles.halo_cost({"recurrence", -1}));
    for (const Span rows : strips)
      relay(line, s, rows.size(), device, [&](CellState& state) {
        recur(precision, z->value, weight.value, rows, state, record.get(), hidden);
      });
  }
  const auto pull = [&tape, &tiles, precision, z, s, strips, record, &weight, device](Node& node) {
    Tensor dz(z->value.shape(), z->grad_margin, device);
    {
      Relay line(tiles.time(), Relay::Direction::down,
                 tiles.halo_cost({"recurrence", -1, Layer::Pass::backward}));
      for (const Span rows : strips)
        relay(line, s, rows.size(), device, [&](CellState& state) {
          recur_gradients(precision, node.grad, weight.value, rows, *record, state, dz);
        });
    }
    const auto pull_weight = [blocks = tape.blocks(), precision, record, &weight](const Tensor& dz) {
      pull_convolution_weight(blocks, precision, record->hidden_before, dz, {}, weight, nullptr);
    };
    if (tape.defers())
      tape.defer(pull_weight, dz.clone());
    else
      pull_weight(dz);
    accumulate(*z, std::move(dz));
  };
  Work work =
      convolution_work("recurrence", z->value.shape(), weight.value.shape(), true, tape.blocks().members);
  work.inputs = s.c;
  return tape.record(std::move(hidden), work, pull, {}, {&weight});
}

} // namespace pluvia
