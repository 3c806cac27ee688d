#include "pluvia/train/adam.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

Adam make_adam(const std::vector<Parameter*>& parameters) {
  Adam adam;
  for (const Parameter* p : parameters) {
    const auto values = p->value.storage();
    adam.states.push_back({std::vector<float>(values.size(), 0.0F), std::vector<float>(values.size(), 0.0F),
                           std::vector<float>(values.begin(), values.end())});
  }
  return adam;
}

namespace {

/// A part of one parameter, for one thread.
struct Piece {
  std::size_t parameter, from, to;
};
template <class P> std::vector<Piece> cut(const std::vector<P*>& parameters) {
  constexpr std::size_t most = 16384;
  std::vector<Piece> out;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::size_t size = parameters[i]->value.storage().size();
    for (std::size_t from = 0; from < size; from += most)
      out.push_back({i, from, std::min(size, from + most)});
  }
  return out;
}

} // namespace

double gradient_norm(const std::vector<Parameter*>& parameters) {
  std::vector<const Parameter*> ordered(parameters.begin(), parameters.end());
  std::ranges::sort(ordered, {}, &Parameter::name);
  const std::vector<Piece> pieces = cut(ordered);
  std::vector<double> squares(pieces.size(), 0.0);
  parallel_for(static_cast<Index>(pieces.size()), [&](Index i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    double lanes[8] = {}; // sums of their own, so that additions need not wait for each other
    std::size_t lane = 0;
    for (float g : ordered[piece.parameter]->grad.storage().subspan(piece.from, piece.to - piece.from))
      lanes[lane++ % 8] += static_cast<double>(g) * g;
    for (double s : lanes) squares[static_cast<std::size_t>(i)] += s;
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

void update(Adam& adam, const std::vector<Parameter*>& parameters, double learning_rate, double weight_decay,
            double gradient_scale) {
  constexpr double beta1 = 0.9, beta2 = 0.98;
  constexpr float epsilon = 1e-9F;
  const auto t = static_cast<double>(++adam.step);
  const auto rate =
      static_cast<float>(learning_rate * std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t)));
  const auto scale = static_cast<float>(gradient_scale);
  const auto average_decay = static_cast<float>(std::min(0.999, (1 + t) / (10 + t)));
  const std::vector<Piece> pieces = cut(parameters);
  parallel_for(static_cast<Index>(pieces.size()), [&](Index i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    Parameter& p = *parameters[piece.parameter];
    Adam::State& state = adam.states[piece.parameter];
    const float shrink =
        p.decay == Parameter::Decay::yes ? static_cast<float>(learning_rate * weight_decay) : 0.0F;
    const auto value = p.value.storage();
    const auto grad = p.grad.storage();
    for (std::size_t n = piece.from; n < piece.to; ++n) {
      const float g = scale * grad[n];
      state.first[n] = std::fma(0.9F, state.first[n], 0.1F * g);
      state.second[n] = std::fma(0.98F, state.second[n], 0.02F * g * g);
      value[n] -= shrink * value[n] + rate * state.first[n] / (std::sqrt(state.second[n]) + epsilon);
      state.average[n] = std::fma(average_decay, state.average[n] - value[n], value[n]);
    }
  });
}

void swap_average(Adam& adam, const std::vector<Parameter*>& parameters) {
  for (std::size_t i = 0; i < parameters.size(); ++i)
    std::swap_ranges(adam.states[i].average.begin(), adam.states[i].average.end(),
                     parameters[i]->value.storage().begin());
}

double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, steps - warmup));
  return peak * (0.01 + 0.99 * 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done))));
}

} // namespace pluvia
