#include "pluvia/train/training_state.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "pluvia/core/error.hpp"
#include "pluvia/model/forecast_model.hpp"

namespace pluvia {

namespace {

/// The arrays of a checkpoint that go on with a training; "best" is there when the best weights are known.
constexpr std::pair<const char*, std::vector<float> TrainingState::*> arrays[] = {
    {"weights", &TrainingState::weights},
    {"average", &TrainingState::average},
    {"adam_first", &TrainingState::first},
    {"adam_second", &TrainingState::second}};
constexpr const char* best = "best";

/// Stores values of the parameters as arrays "PREFIX/NAME", of which this rank has its own; those of the
/// first group do, for every group has all.
void store_own(const ParameterShards& shards, const std::string& prefix, std::span<const float> own,
               Checkpoint& checkpoint) {
  const auto name = [&](const Parameter& p) { return prefix + "/" + p.name; };
  for (const Parameter* p : shards.parameters()) checkpoint.arrays[name(*p)] = {extents_of(*p), {}, Span{}};
  if (!shards.first_group()) return;
  for (const ParameterShards::Piece& piece : shards.own()) {
    NamedArray& array = checkpoint.arrays[name(*piece.parameter)];
    const auto values =
        own.subspan(static_cast<std::size_t>(piece.at), static_cast<std::size_t>(piece.values.size()));
    array.values = {values.begin(), values.end()};
    array.run = piece.values;
  }
}

void store_figures(const BestWeights& weights, double rate_factor, Checkpoint& checkpoint) {
  checkpoint.texts["best_loss"] = fmt::format("{}", weights.loss);
  checkpoint.texts["best_step"] = std::to_string(weights.step);
  checkpoint.texts["rate_factor"] = fmt::format("{}", rate_factor);
}

std::vector<float> load_own(const Checkpoint& checkpoint, const std::string& prefix,
                            const ParameterShards& shards) {
  std::vector<float> out;
  for (const ParameterShards::Piece& own : shards.own()) {
    const std::vector<float>& values = checkpoint.arrays.at(prefix + "/" + own.parameter->name).values;
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

} // namespace

TrainingState state_of(const ParameterShards& shards, const Adam& adam, const BestWeights& best,
                       double rate_factor) {
  return {adam.step,
          rate_factor,
          shards.values(),
          values_of(adam.average),
          values_of(adam.first),
          values_of(adam.second),
          best};
}

void set_state(const TrainingState& state, ParameterShards& shards, Adam& adam) {
  adam.step = state.step;
  set_values(adam.average, state.average);
  set_values(adam.first, state.first);
  set_values(adam.second, state.second);
  shards.set_values(state.weights);
}

void store_state(const TrainingState& state, const ParameterShards& shards, Checkpoint& checkpoint) {
  checkpoint.step = state.step;
  store_figures(state.best, state.rate_factor, checkpoint);
  for (const auto& [prefix, values] : arrays) store_own(shards, prefix, state.*values, checkpoint);
  if (state.best.known()) store_own(shards, best, state.best.values, checkpoint);
}

void store_best(const BestWeights& weights, double rate_factor, const ParameterShards& shards,
                Checkpoint& checkpoint) {
  checkpoint.step = weights.step;
  store_figures(weights, rate_factor, checkpoint);
  store_own(shards, "weights", weights.values, checkpoint);
}

WantedRun own_runs(const ParameterShards& shards) {
  return [&shards](const std::string& array) -> std::optional<Span> {
    const std::string prefix = array.substr(0, array.find('/'));
    if (prefix != best && std::ranges::find(arrays, prefix, [](const auto& a) {
                            return std::string(a.first);
                          }) == std::end(arrays))
      return std::nullopt;
    const auto found = std::ranges::find_if(shards.own(), [&](const ParameterShards::Piece& p) {
      return array.compare(prefix.size() + 1, std::string::npos, p.parameter->name) == 0;
    });
    return found == shards.own().end() ? Span{} : found->values;
  };
}

TrainingState load_state(const Checkpoint& c, const ParameterShards& shards, const std::string& path) {
  TrainingState out;
  const auto has = [&](const std::string& prefix) { return has_parameters(c, prefix, shards.parameters()); };
  for (const auto& [prefix, values] : arrays) {
    if (!has(prefix))
      fail(ExitCode::data, path + " cannot be trained on",
           fmt::format("it has no arrays {}/... of this network", prefix), "Name a checkpoint_NNNNNNNN.h5.");
    out.*values = load_own(c, prefix, shards);
  }
  out.step = c.step;
  if (const auto found = c.texts.find("rate_factor"); found != c.texts.end())
    out.rate_factor = std::stod(found->second);
  if (!has(best)) return out;
  out.best = {std::stod(c.texts.at("best_loss")), std::stoll(c.texts.at("best_step")),
              load_own(c, best, shards)};
  return out;
}

} // namespace pluvia
