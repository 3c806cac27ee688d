#include "pluvia/train/adam.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "adam_step.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

Adam make_adam(const std::vector<Parameter*>& parameters) {
  Adam adam;
  for (const Parameter* p : parameters) {
    const Tensor& v = p->value;
    adam.states.push_back(
        {Tensor::zeros(v.shape(), {}, v.device()), Tensor::zeros(v.shape(), {}, v.device()), v.clone()});
  }
  return adam;
}

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

template <class P> bool on_gpu(const std::vector<P*>& parameters) {
  return !parameters.empty() && parameters.front()->value.device() == Device::gpu;
}
constexpr std::size_t gpu_piece = 1024;

} // namespace

double gradient_norm(const std::vector<Parameter*>& parameters) {
  std::vector<const Parameter*> ordered(parameters.begin(), parameters.end());
  std::ranges::sort(ordered, {}, &Parameter::name);
  std::vector<double> squares;
  if (on_gpu(ordered)) {
    std::vector<kernels::AdamPiece> pieces;
    for (const Piece& piece : cut(ordered, gpu_piece))
      pieces.push_back({.grad = ordered[piece.parameter]->grad.storage().data() + piece.from,
                        .size = static_cast<Index>(piece.to - piece.from)});
    squares = kernels::squares(pieces);
  } else {
    const std::vector<Piece> pieces = cut(ordered);
    squares.assign(pieces.size(), 0.0);
    for_pieces(pieces, [&](std::size_t i) {
      const Piece& piece = pieces[i];
      double lanes[8] = {}; // sums of their own, so that additions need not wait for each other
      std::size_t lane = 0;
      for (float g : ordered[piece.parameter]->grad.storage().subspan(piece.from, piece.to - piece.from))
        lanes[lane++ % 8] += static_cast<double>(g) * g;
      for (double s : lanes) squares[i] += s;
    });
  }
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

void update(Adam& adam, const std::vector<Parameter*>& parameters, double learning_rate, double weight_decay,
            double gradient_scale) {
  constexpr double beta1 = 0.9, beta2 = 0.98;
  const auto t = static_cast<double>(++adam.step);
  const kernels::AdamRates rates{
      static_cast<float>(learning_rate * std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t))),
      static_cast<float>(gradient_scale), static_cast<float>(std::min(0.999, (1 + t) / (10 + t))), 1e-9F};
  const bool there = on_gpu(parameters);
  std::vector<kernels::AdamPiece> pieces;
  const std::vector<Piece> parts = there ? cut(parameters, gpu_piece) : cut(parameters);
  for (const Piece& piece : parts) {
    Parameter& p = *parameters[piece.parameter];
    Adam::State& state = adam.states[piece.parameter];
    pieces.push_back(
        {p.grad.storage().data() + piece.from, p.value.storage().data() + piece.from,
         state.first.storage().data() + piece.from, state.second.storage().data() + piece.from,
         state.average.storage().data() + piece.from, static_cast<Index>(piece.to - piece.from),
         p.decay == Parameter::Decay::yes ? static_cast<float>(learning_rate * weight_decay) : 0.0F});
  }
  if (there) return kernels::update(pieces, rates);
  for_pieces(parts, [&](std::size_t i) {
    const kernels::AdamPiece p = pieces[i];
    for (Index n = 0; n < p.size; ++n)
      adam_step(p.grad[n], p.shrink, rates, p.value[n], p.first[n], p.second[n], p.average[n]);
  });
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
