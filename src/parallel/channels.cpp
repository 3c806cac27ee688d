#include "pluvia/parallel/channels.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/stopwatch.hpp"
#include "pluvia/ops/linear.hpp"
#include "pluvia/ops/weight_gradient.hpp"

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

/// All channels of a value of which every rank has its own.
Tensor gathered(Decomposition& tiles, const ChannelShare& share, const Tensor& own, Index channels) {
  if (own.device() == Device::gpu)
    return moved(gathered(tiles, share, own.to(Device::host), channels), Device::gpu);
  HaloCost& cost = tiles.halo_cost();
  const Communicator& group = tiles.channels();
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
    const auto to = incoming[static_cast<std::size_t>(member)].storage();
    mpi_check(MPI_Irecv(to.data(), static_cast<int>(to.size()), MPI_FLOAT, member, gather_tag, group.raw(),
                        &requests.emplace_back()),
              "MPI_Irecv");
  }
  Tensor packed;
  if (!own.dense()) {
    const Stopwatch packing(cost.pack_seconds);
    packed = own.clone();
  }
  const auto message = own.dense() ? own.storage() : std::as_const(packed).storage();
  for (int member = 0; member < share.members; ++member) {
    if (member == share.member) continue;
    mpi_check(MPI_Isend(message.data(), static_cast<int>(message.size()), MPI_FLOAT, member, gather_tag,
                        group.raw(), &requests.emplace_back()),
              "MPI_Isend");
    cost.bytes += static_cast<std::int64_t>(message.size_bytes());
    cost.messages += 1;
  }
  s.c = channels;
  Tensor all(s);
  const auto put = [&](const Tensor& part, int member) {
    const Stopwatch packing(cost.pack_seconds);
    const Span to = share.of_member(member).of(channels);
    copy_channels(part, 0, all, to.from, to.size());
  };
  put(own, share.member);
  {
    const Stopwatch waiting(cost.wait_seconds);
    mpi_check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
              "MPI_Waitall");
  }
  for (int member = 0; member < share.members; ++member)
    if (member != share.member) put(incoming[static_cast<std::size_t>(member)], member);
  return all;
}

/// Some columns of a matrix [1, 1, 1, C_in, C_out]: the weights of some outputs.
Tensor columns(const Tensor& weight, const ChannelShare& share) {
  return own_of(weight, share);
}

/// Some rows of it: the weights of some inputs.
Tensor rows(const Tensor& weight, const ChannelShare& share) {
  if (weight.device() == Device::gpu) return moved(rows(weight.to(Device::host), share), Device::gpu);
  Shape s = weight.shape();
  const Span own = share.of(s.x);
  s.x = own.size();
  Tensor out(s);
  std::copy_n(weight.cell(0, 0, 0, own.from), s.size(), out.storage().data());
  return out;
}

/// Forward and backward of both linear layers; `whole`: all channels of the output are gathered.
Var shared_linear(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
                  Parameter& weight, Parameter& bias, const Var& residual, Margin out_margin, bool whole) {
  if (share.whole()) return linear(tape, x.all, weight, bias, residual, out_margin);
  const Index c_in = weight.value.shape().x, c_out = weight.value.shape().c;
  assert(x.all->value.shape().c == c_in && x.own->value.shape().c == share.size(c_in));
  const Device device = x.all->value.device();
  // As in linear().
  const Precision precision = c_in < 32 ? Precision::f32 : tape.precision();
  Shape s = x.all->value.shape();
  s.c = c_out;
  const Work work = shared_linear_work(share, s, c_in, tape.blocks().members);
  s.c = share.size(c_out);
  Tensor y(s, out_margin, device);
  convolution(precision, x.all->value, columns(weight.value, share), {},
              bias.value.cell(0, 0, 0, 0) + share.of(c_out).from, residual && !whole ? &residual->value : nullptr,
              y);
  if (whole) {
    y = gathered(tiles, share, y, c_out);
    if (residual) add_to(y, residual->value);
  }
  const auto pull = [&tape, &tiles, share, precision, x, &weight, &bias, residual, c_out,
                     whole](Node& node) {
    Tensor from_all;
    if (!whole) from_all = gathered(tiles, share, node.grad, c_out);
    Tensor& dy = whole ? node.grad : from_all;
    const auto pull_weight = [blocks = tape.blocks(), precision, all = x.all, &weight,
                              &bias](const Tensor& d) {
      pull_convolution_weight(blocks, precision, all->value, d, {}, weight, &bias);
    };
    if (!tape.defers()) pull_weight(dy);
    if (x.own->needs_grad) {
      const GradientSlot dx = gradient_slot(*x.own);
      convolution_pull_input(precision, dy, rows(weight.value, share), {}, dx.addend, dx.target);
    }
    if (residual && tape.defers() && whole)
      copy_gradient(node, *residual);
    else if (residual)
      pass_gradient(node, *residual);
    if (tape.defers()) tape.defer(pull_weight, std::move(dy));
  };
  return tape.record(std::move(y), work, pull, {}, {&weight, &bias});
}

} // namespace

Channels share_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& x) {
  if (share.whole()) return {x, x};
  const auto pull = [&tiles, share, x](Node& node) {
    Tensor dx = gathered(tiles, share, node.grad, x->value.shape().c);
    accumulate(*x, x->grad_margin == Margin{} ? std::move(dx) : dx.clone(x->grad_margin));
  };
  return {tape.record(own_of(x->value, share), {"own channels", x->value.shape().c}, pull), x};
}

Channels gather_channels(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Var& own,
                         Index channels) {
  if (share.whole()) return {own, own};
  // Those who use all channels pull back to the rank's own.
  return {own, tape.record(gathered(tiles, share, own->value, channels), {"gather", own->value.shape().c},
                           [](Node&) {})};
}

Var linear_own(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual, Margin out_margin) {
  return shared_linear(tape, tiles, share, x, weight, bias, residual, out_margin, false);
}

Var linear_all(Tape& tape, Decomposition& tiles, const ChannelShare& share, const Channels& x,
               Parameter& weight, Parameter& bias, const Var& residual) {
  return shared_linear(tape, tiles, share, x, weight, bias, residual, {}, true);
}

Work shared_linear_work(const ChannelShare& share, const Shape& output, Index c_in, int gradient_members) {
  const double pair = 2.0 * static_cast<double>(output.cells()),
               all = pair * static_cast<double>(c_in * output.c);
  return {"linear", c_in, pair * static_cast<double>(c_in * share.size(output.c)),
          pair * static_cast<double>(share.size(c_in) * output.c) + all / gradient_members};
}

HaloTraffic gather_traffic(const ChannelShare& share, const Shape& all) {
  const int others = share.members - 1;
  return {all.cells() * share.size(all.c) * others * static_cast<Index>(sizeof(float)), others};
}

} // namespace pluvia
