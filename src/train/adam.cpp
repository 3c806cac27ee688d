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

/// A part of one parameter, for one thread.
struct Piece {
  std::size_t parameter, from, to;
};
template <class P> std::vector<Piece> cut(const std::vector<P*>& parameters, std::size_t most = 16384) {
  std::vector<Piece> out;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::size_t size = parameters[i]->value.storage().size();
    for (std::size_t from = 0; from < size; from += most)
      out.push_back({i, from, std::min(size, from + most)});
  }
  return out;
}

std::vector<kernels::AdamPiece> describe(Adam& adam, const std::vector<Parameter*>& parameters,
                                         const std::vector<Piece>& pieces) {
  std::vector<kernels::AdamPiece> out;
  for (const Piece& piece : pieces) {
    Parameter& p = *parameters[piece.parameter];
    Adam::State& state = adam.states[piece.parameter];
    out.push_back({p.grad.storage().data() + piece.from, p.value.storage().data() + piece.from,
                   state.first.storage().data() + piece.from, state.second.storage().data() + piece.from,
                   state.average.storage().data() + piece.from, static_cast<Index>(piece.to - piece.from),
                   p.decay == Parameter::Decay::yes});
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

/// Calls f(i) for every piece, of about as many values on each thread.
template <class F> void for_pieces(const std::vector<Piece>& pieces, F&& f) {
  constexpr std::size_t tasks = 64;
  std::size_t total = 0, before = 0;
  for (const Piece& p : pieces) total += p.to - p.from;
  std::vector<std::size_t> first; // piece of each task
  for (std::size_t i = 0; i < pieces.size(); before += pieces[i].to - pieces[i].from, ++i)
    while (first.size() * total <= before * tasks) first.push_back(i);
  first.push_back(pieces.size());
  parallel_for(static_cast<Index>(first.size()) - 1, [&](Index task) {
    const auto t = static_cast<std::size_t>(task);
    for (std::size_t i = first[t]; i < first[t + 1]; ++i) f(i);
  });
}

} // namespace

Adam make_adam(const std::vector<Parameter*>& parameters) {
  Adam adam;
  for (const Parameter* p : parameters) {
    const Tensor& v = p->value;
    adam.states.push_back(
        {Tensor::zeros(v.shape(), {}, v.device()), Tensor::zeros(v.shape(), {}, v.device()), v.clone()});
  }
  if (!parameters.empty() && parameters.front()->value.device() == Device::gpu) {
    constexpr std::size_t piece = 1024;
    adam.there = std::make_shared<AdamThere>();
    adam.there->pieces = DeviceArray<kernels::AdamPiece>(describe(adam, parameters, cut(parameters, piece)));
    adam.there->longest = piece;
  }
  return adam;
}

double gradient_norm(const std::vector<Parameter*>& parameters) {
  std::vector<const Parameter*> ordered(parameters.begin(), parameters.end());
  std::ranges::sort(ordered, {}, &Parameter::name);
  const std::vector<Piece> pieces = cut(ordered);
  std::vector<double> squares(pieces.size(), 0.0);
  for_pieces(pieces, [&](std::size_t i) {
    const Piece& piece = pieces[i];
    double lanes[8] = {}; // sums of their own, so that additions need not wait for each other
    std::size_t lane = 0;
    for (float g : ordered[piece.parameter]->grad.storage().subspan(piece.from, piece.to - piece.from))
      lanes[lane++ % 8] += static_cast<double>(g) * g;
    for (double s : lanes) squares[i] += s;
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

void update(Adam& adam, const std::vector<Parameter*>& parameters, double learning_rate, double weight_decay,
            double gradient_scale) {
  const kernels::AdamRates rates = rates_of(++adam.step, learning_rate, weight_decay);
  const auto scale = static_cast<float>(gradient_scale);
  const std::vector<Piece> parts = cut(parameters);
  const std::vector<kernels::AdamPiece> pieces = describe(adam, parameters, parts);
  for_pieces(parts, [&](std::size_t i) {
    const kernels::AdamPiece p = pieces[i];
    const float shrink = p.decays ? rates.shrink : 0.0F;
    for (Index n = 0; n < p.size; ++n)
      adam_step(p.grad[n], shrink, rates, scale, p.value[n], p.first[n], p.second[n], p.average[n]);
  });
}

void send_rates(Adam& adam, double learning_rate, double weight_decay) {
  adam.there->next_rates.next()[0] = rates_of(++adam.step, learning_rate, weight_decay);
  adam.there->next_rates.send();
}

void update_there(Adam& adam, double clip_norm, double* norm) {
  AdamThere& there = *adam.there;
  kernels::gradient_norm(there.pieces, norm);
  kernels::update(there.pieces, there.longest, there.rates.data(), clip_norm, norm);
}

void swap_average(Adam& adam, const std::vector<Parameter*>& parameters) {
  for (std::size_t i = 0; i < parameters.size(); ++i) std::swap(adam.states[i].average, parameters[i]->value);
}

double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, steps - warmup));
  return peak * (0.01 + 0.99 * 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done))));
}

} // namespace pluvia
