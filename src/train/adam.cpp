#include "pluvia/train/adam.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "adam_step.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

/// A part of so many values, for one thread.
std::vector<Span> cut(Index size, Index most) {
  std::vector<Span> out;
  for (Index from = 0; from < size; from += most) out.push_back({from, std::min(size, from + most)});
  return out;
}
constexpr Index piece = 16384, gpu_piece = 1024;

/// Of the gradients alone.
template <class P>
std::vector<kernels::AdamPiece> gradients_of(const std::vector<P*>& parameters, Index most) {
  std::vector<kernels::AdamPiece> out;
  for (const Parameter* p : parameters) {
    const auto grad = p->grad.storage();
    for (const Span part : cut(static_cast<Index>(grad.size()), most))
      out.push_back({.grad = grad.data() + part.from, .size = part.size()});
  }
  return out;
}

/// Of what this rank owns.
std::vector<kernels::AdamPiece> own_pieces(Adam& adam, const ParameterShards& shards, Index most) {
  std::vector<kernels::AdamPiece> out;
  for (const ParameterShards::Piece& own : shards.own()) {
    Parameter& p = *own.parameter;
    for (const Span part : cut(own.values.size(), most)) {
      const Index of_parameter = own.values.from + part.from, of_state = own.at + part.from;
      out.push_back({p.grad.storage().data() + of_parameter, p.value.storage().data() + of_parameter,
                     adam.first.storage().data() + of_state, adam.second.storage().data() + of_state,
                     adam.average.storage().data() + of_state, part.size(),
                     p.decay == Parameter::Decay::yes});
    }
  }
  return out;
}

/// Of the t-th update.
kernels::AdamRates rates_of(std::int64_t step, double learning_rate, double weight_decay) {
  constexpr double beta1 = 0.9, beta2 = 0.98;
  const auto t = static_cast<double>(step);
  return {static_cast<float>(learning_rate * std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t))),
          static_cast<float>(std::min(0.999, (1 + t) / (10 + t))), 1e-9F,
          static_cast<float>(learning_rate * weight_decay)};
}

/// Calls f(i, piece) for every piece, of about as many values on each thread.
template <class F> void for_pieces(const std::vector<kernels::AdamPiece>& pieces, F&& f) {
  constexpr Index tasks = 64;
  Index total = 0, before = 0;
  for (const kernels::AdamPiece& p : pieces) total += p.size;
  std::vector<std::size_t> first; // piece of each task
  for (std::size_t i = 0; i < pieces.size(); before += pieces[i].size, ++i)
    while (static_cast<Index>(first.size()) * total <= before * tasks) first.push_back(i);
  first.push_back(pieces.size());
  parallel_for(static_cast<Index>(first.size()) - 1, [&](Index task) {
    const auto t = static_cast<std::size_t>(task);
    for (std::size_t i = first[t]; i < first[t + 1]; ++i) f(i, pieces[i]);
  });
}

} // namespace

Adam make_adam(const ParameterShards& shards) {
  const bool none = shards.parameters().empty();
  const Device device = none ? Device::host : shards.parameters().front()->value.device();
  const Shape shape{1, 1, 1, 1, shards.size()};
  Adam adam{0, Tensor::zeros(shape, {}, device), Tensor::zeros(shape, {}, device), Tensor(shape, {}, device)};
  set_values(adam.average, shards.values());
  if (device == Device::gpu) {
    using Pieces = DeviceArray<kernels::AdamPiece>;
    adam.there = std::make_shared<AdamThere>();
    adam.there->gradients = Pieces(gradients_of(shards.parameters(), gpu_piece));
    adam.there->own = Pieces(own_pieces(adam, shards, gpu_piece));
    adam.there->longest = gpu_piece;
  }
  return adam;
}

double gradient_norm(const std::vector<Parameter*>& parameters) {
  std::vector<const Parameter*> ordered(parameters.begin(), parameters.end());
  std::ranges::sort(ordered, {}, &Parameter::name);
  const std::vector<kernels::AdamPiece> pieces = gradients_of(ordered, piece);
  std::vector<double> squares(pieces.size());
  for_pieces(pieces, [&](std::size_t i, const kernels::AdamPiece& p) {
    double lanes[8] = {}; // sums of their own, so that additions need not wait for each other
    for (Index n = 0; n < p.size; ++n) lanes[n % 8] += static_cast<double>(p.grad[n]) * p.grad[n];
    for (double s : lanes) squares[i] += s;
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

void update(Adam& adam, ParameterShards& shards, double learning_rate, double weight_decay,
            double gradient_scale) {
  const kernels::AdamRates rates = rates_of(++adam.step, learning_rate, weight_decay);
  const auto scale = static_cast<float>(gradient_scale);
  for_pieces(own_pieces(adam, shards, piece), [&](std::size_t, const kernels::AdamPiece& p) {
    const float shrink = p.decays ? rates.shrink : 0.0F;
    for (Index n = 0; n < p.size; ++n)
      adam_step(p.grad[n], shrink, rates, scale, p.value[n], p.first[n], p.second[n], p.average[n]);
  });
  shards.gather();
}

void send_rates(Adam& adam, double learning_rate, double weight_decay) {
  adam.there->next_rates.next()[0] = rates_of(++adam.step, learning_rate, weight_decay);
  adam.there->next_rates.send();
}

void update_there(Adam& adam, ParameterShards& shards, double clip_norm, double* norm) {
  AdamThere& there = *adam.there;
  kernels::gradient_norm(there.gradients, norm);
  kernels::update(there.own, there.longest, there.rates.data(), clip_norm, norm);
  shards.gather();
}

void swap_average(Adam& adam, ParameterShards& shards) {
  for (const ParameterShards::Piece& own : shards.own()) {
    std::vector<float> weights(static_cast<std::size_t>(own.values.size())), average(weights.size());
    read_values(own.parameter->value, own.values.from, weights);
    read_values(adam.average, own.at, average);
    write_values(own.parameter->value, own.values.from, average);
    write_values(adam.average, own.at, weights);
  }
  shards.gather();
}

double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, steps - warmup));
  return peak * (0.01 + 0.99 * 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done))));
}

} // namespace pluvia
