#include "pluvia/parallel/channels.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "pluvia/comm/messages.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/stopwatch.hpp"
#include "pluvia/ops/convolution_gradients.hpp"
#include "pluvia/ops/linear.hpp"
#include "pluvia/parallel/stencil.hpp"

namespace pluvia {

namespace {

constexpr int gather_tag = 31;

/// Copies some channels of every cell, those from `from` on of the one to those from `to` on of the other.
void copy_channels(const Tensor& source, Index from, Tensor& target, Index to, Index channels) {
  const Shape& s = target.shape();
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    const float* in = source.cell(b, t, y, 0) + from;
    float* out = target.cell(b, t, y, 0) + to;
    for (Index x = 0; x < s.x; ++x, in += source.stride_x(), out += target.stride_x())
      std::memcpy(out, in, static_cast<std::size_t>(channels) * sizeof(float));
  });
}

/// Of a value with all channels, those of a rank.
Tensor own_of(const Tensor& all, const ChannelShare& share) {
  if (all.device() == Device::gpu) return moved(own_of(all.to(Device::host), share), Device::gpu);
  const Span own = share.of(all.shape().c);
  Shape s = all.shape();
  s.c = own.size();
  Tensor out(s);
  copy_channels(all, own.from, out, 0, own.size());
  return out;
}

/// All channels of a value of which every rank has its own; margins are left undefined.
Tensor gathered(Decomposition& tiles, const ChannelShare& share, const Tensor& own, Index channels,
                Margin margin, Layer::Pass pass) {
  if (own.device() == Device::gpu)
    return moved(gathered(tiles, share, own.to(Device::host), channels, margin, pass), Device::gpu);
  HaloCost& cost = tiles.halo_cost({"gather", -1, pass});
  const Communicator& group = *tiles.channels();
  Shape s = own.shape();
  const auto shape_of = [&](int member) {
    Shape out = s;
    out.c = share.of_member(member).size(channels);
    return out;
  };
  std::vector<Tensor> incoming;
  std::vector<MPI_Request> requests;
  {
    const Stopwatch packing(cost.pack_seconds);
    for (int member = 0; member < share.members; ++member)
      incoming.push_back(member == share.member ? Tensor() : Tensor(shape_of(member)));
  }
  for (int member = 0; member < share.members; ++member) {
    if (member == share.member) continue;
    start_receive(group, incoming[static_cast<std::size_t>(member)].storage(), member, gather_tag, requests);
  }
  Tensor packed;
  if (!own.dense()) {
    const Stopwatch packing(cost.pack_seconds);
    packed = own.clone();
  }
  const auto message = own.dense() ? own.storage() : std::as_const(packed).storage();
  for (int member = 0; member < share.members; ++member) {
    if (member == share.member) continue;
    start_send(group, message, member, gather_tag, requests);
    cost.bytes += static_cast<std::int64_t>(message.size_bytes());
    cost.messages += 1;
  }
  s.c = channels;
  Tensor all(s, margin);
  const auto put = [&](const Tensor& part, int member) {
    const Stopwatch packing(cost.pack_seconds);
    const Span to = share.of_member(member).of(channels);
    copy_channels(part, 0, all, to.from, to.size());
  };
  put(own, share.member);
  {
    const Stopwatch waiting(cost.wait_seconds);
    wait_for(requests);
  }
  for (int member = 0; member < share.members; ++member)
    if (member != share.member) put(incoming[static_cast<std::size_t>(member)], member);
  return all;
}

/// Of weights [t, y, x, C_in, C_out] those of some outputs.
Tensor of_outputs(const Tensor& weight, const ChannelShare& share) {
  return own_of(weight, share);
}

/// Those of some inputs.
Tensor of_inputs(const Tensor& weight, const ChannelShare& share) {
  if (weight.device() == Device::gpu) return moved(of_inputs(weight.to(Device::host), share), Device::gpu);
  Shape s = weight.shape();
  const Span own = share.of(s.x);
  s.x = own.size();
  Tensor out(s);
  for (Index t = 0; t < s.b; ++t)
    for (Index y = 0; y < s.t; ++y)
      for (Index x = 0; x < s.y; ++x)
        std::copy_n(weight.cell(t, y, x, own.from), s.x * s.c, out.cell(t, y, x, 0));
  return out;
}

struct Weights {
  const char* name;
  Parameter &weight, &bias;
  Stencil stencil = {};
  int level = 0; ///< of the stencil's halo
};

/// Forward and backward of all layers; `whole`: all channels of the output are gathered.
Var shared_convolution(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
                       const Weights& layer, const Var& residual, Margin out_margin, bool whole) {
  Parameter &weight = layer.weight, &bias = layer.bias;
  const Index c_in = weight.value.shape().x, c_out = weight.value.shape().c;
  assert(x.all->value.shape().c == c_in && x.own->value.shape().c == share.size(c_in));
  const Stencil stencil = layer.stencil;
  const int level = layer.level;
  const bool alone = stencil == Stencil{}; // no cell sees another one
  // As in linear().
  const Precision precision = alone && c_in < 32 ? Precision::f32 : tape.precision();
  Shape s = x.all->value.shape();
  s.c = c_out;
  const Work work = shared_work(layer.name, share, s, weight.value.shape(), tape.blocks().members);
  s.c = share.size(c_out);
  if (!alone) tiles.exchange(tiles.stencil_halo(level, stencil), {&x.all->value}, {"conv3d", level}).finish();
  Tensor y(s, out_margin, x.all->value.device());
  convolution(precision, x.all->value, of_outputs(weight.value, share), stencil,
              bias.value.cell(0, 0, 0, 0) + share.of(c_out).from,
              residual && !whole ? &residual->value : nullptr, y);
  if (whole) {
    y = gathered(tiles, share, y, c_out, {}, Layer::Pass::forward);
    if (residual) add_to(y, residual->value);
  }
  const Margin around = reach(transposed(stencil));
  const auto pull = [&tape, &tiles, share, precision, x, &weight, &bias, stencil, level, alone, around,
                     residual, c_out, whole](Node& node) {
    Tensor from_all;
    if (!whole) from_all = gathered(tiles, share, node.grad, c_out, around, Layer::Pass::backward);
    Tensor& dy = whole ? node.grad : from_all;
    const auto pull_weight = [blocks = tape.blocks(), precision, all = x.all, &weight, &bias,
                              stencil](const Tensor& d) {
      pull_convolution_weight(blocks, precision, all->value, d, stencil, weight, &bias);
    };
    const auto exchange = alone ? nullptr
                                : tiles.held_exchange(tiles.stencil_halo(level, transposed(stencil)), {&dy},
                                                      {"conv3d", level, Layer::Pass::backward});
    if (!tape.defers()) pull_weight(dy);
    if (exchange) exchange->finish();
    if (x.own->needs_grad) {
      const GradientSlot dx = gradient_slot(*x.own);
      convolution_pull_input(precision, dy, of_inputs(weight.value, share), stencil, dx.addend, dx.target);
    }
    if (residual && tape.defers() && whole)
      copy_gradient(node, *residual);
    else if (residual)
      pass_gradient(node, *residual);
    if (tape.defers()) tape.defer(pull_weight, std::move(dy));
  };
  return tape.record(std::move(y), work, pull, whole ? around : Margin{}, {&weight, &bias});
}

} // namespace

Channels share_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& x) {
  if (share.whole()) return {x, x};
  const auto pull = [&tiles, share, x](Node& node) {
    accumulate(*x,
               gathered(tiles, share, node.grad, x->value.shape().c, x->grad_margin, Layer::Pass::backward));
  };
  return {tape.record(own_of(x->value, share), {"own channels", x->value.shape().c}, pull), x};
}

Channels gather_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& own,
                         Index channels, Margin margin) {
  if (share.whole()) return {own, own};
  // Those who use all channels pull back to the rank's own.
  return {own, tape.record(gathered(tiles, share, own->value, channels, margin, Layer::Pass::forward),
                           {"gather", own->value.shape().c}, [](Node&) {})};
}

Var linear_own(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual, Margin out_margin) {
  if (share.whole()) return linear(tape, x.all, weight, bias, residual, out_margin);
  return shared_convolution(tape, tiles, share, x, {"linear", weight, bias}, residual, out_margin, false);
}

Var linear_all(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual) {
  if (share.whole()) return linear(tape, x.all, weight, bias, residual);
  return shared_convolution(tape, tiles, share, x, {"linear", weight, bias}, residual, {}, true);
}

Var conv3d_own(Tape& tape, Decomposition& tiles, int level, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Stencil& stencil) {
  if (share.whole()) return conv3d(tape, tiles, level, x.all, weight, bias, stencil);
  return shared_convolution(tape, tiles, share, x, {"conv3d", weight, bias, stencil, level}, nullptr, {},
                            false);
}

Var conv3d_all(Tape& tape, Decomposition& tiles, int level, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Stencil& stencil, const Var& residual) {
  if (share.whole()) return conv3d(tape, tiles, level, x.all, weight, bias, stencil, residual);
  return shared_convolution(tape, tiles, share, x, {"conv3d", weight, bias, stencil, level}, residual, {},
                            true);
}

Work shared_work(std::string_view name, const ChannelShare& share, const Shape& output, const Shape& weight,
                 int gradient_members) {
  const double all = 2.0 * static_cast<double>(output.cells() * weight.size()),
               inputs = static_cast<double>(share.size(weight.x)) / static_cast<double>(weight.x),
               outputs = static_cast<double>(share.size(weight.c)) / static_cast<double>(weight.c);
  return {name, weight.x, all * outputs, all * inputs + all / gradient_members};
}

HaloTraffic gather_traffic(const ChannelShare& share, const Shape& all) {
  const int others = share.members - 1;
  return {all.cells() * share.size(all.c) * others * static_cast<Index>(sizeof(float)), others};
}

} // namespace pluvia
