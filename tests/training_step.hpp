#pragma once
// One training step of a network on random samples, on any process grid, for tests that compare grids.
#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "random_field.hpp"
#include "rank_part.hpp"

namespace pluvia::test {

/// A form of the network, and how its steps are kept.
struct Form {
  std::string attention;
  std::int64_t input_merge, skip_radius;
  Edge edge;
  Tape::Keep keep;
  std::string core = "attention", global = "none";
};
inline std::vector<Form> forms() {
  return {{"neighbourhood", 1, 0, Edge::closed, Tape::Keep::everything},
          {"windowed", 2, 1, Edge::periodic, Tape::Keep::blocks},
          {"joint", 1, 1, Edge::closed, Tape::Keep::everything, "attention", "softmax"},
          {"neighbourhood", 1, 0, Edge::closed, Tape::Keep::blocks, "recurrent", "linear"}};
}

inline ModelSettings small_network(const Form& form, std::int64_t frames,
                                   std::vector<std::int64_t> channels) {
  ModelSettings out;
  out.history = frames;
  out.channels = std::move(channels);
  out.attention.form = form.attention;
  out.attention.radius = 2;
  out.attention.window = 4;
  out.attention.global = form.global;
  out.input_merge = form.input_merge;
  out.skip_radius = form.skip_radius;
  out.temporal_core = form.core;
  out.head_init = "random";
  return out;
}

/// What is stepped, and how.
struct StepOf {
  const ModelSettings& network;
  const StUnetPorts& ports;
  int samples;
  Index block = 0; ///< of gradients; 0: without blocks
  int stages = 1, tensor = 1;
  Tape::Keep keep = Tape::Keep::everything;
  Precision precision = Precision::f32;
  Device device = Device::host;
};

struct StepOutcome {
  std::vector<Tensor> logits;                ///< of every sample, on the ranks of the last stage
  std::vector<Tensor> input_gradients;       ///< on those of the first
  std::vector<std::vector<float>> gradients; ///< of the parameters, summed over ranks
  double loss = 0;                           ///< of all samples, summed over ranks
};

/// The samples, targets and weights are the same on every process grid. Collective.
inline StepOutcome take_step(const Communicator& world, const Partition& partition, const StepOf& step) {
  const StUnetPorts& ports = step.ports;
  const ProcessGrid grid = make_process_grid(world, 1, step.stages, step.tensor);
  StUnet network(step.network, ports, 3);
  network.parameters().move_to(step.device);
  if (step.block > 0) network.parameters().sum_in_blocks();
  network.parameters().zero_gradients();
  Decomposition tiles(grid.tiles, partition, &grid.channels);
  Pipeline pipeline(network, ports, tiles, grid.stages,
                    cut_stages(step.network, ports, partition.tiling, step.stages));
  const Rect tile = tiles.tile(0), domain = tiles.domain(0);
  const Index frames = step.network.history;
  const auto leads = static_cast<Index>(ports.lead_hours.size());
  const Span own_frames = tiles.frames(frames), own_leads = tiles.leads(leads);
  const auto parameters = network.parameters().all();
  GradientSync sync(world, parameters);
  std::vector<int> told(parameters.size(), 0);
  std::vector<Var> inputs;
  StepOutcome out;
  Pipeline::Batch batch;
  batch.size = step.samples;
  batch.tape = [&] {
    return std::make_unique<Tape>(Tape::Mode::record, step.precision, step.keep, nullptr,
                                  GradientBlocks{step.block, tile.height(), tile.width(), 1,
                                                 grid.channels.rank(), grid.channels.size()});
  };
  batch.load = [&](int m) {
    Pipeline::Sample sample{nullptr, nullptr, {0.2, 7, static_cast<std::uint64_t>(m)}};
    const auto seed = 2 * static_cast<std::uint64_t>(m);
    if (pipeline.first()) {
      sample.input = Tape::leaf(part_of(field(domain, domain, frames, ports.inputs, seed), tile, own_frames,
                                        network.input_margin()),
                                true);
      inputs.push_back(sample.input);
    }
    if (pipeline.last())
      sample.base =
          Tape::leaf(part_of(field(domain, domain, leads, ports.classes, seed + 1), tile, own_leads));
    return sample;
  };
  batch.score = [&](int m, const Var& logits, const Tape& tape) {
    out.logits.push_back(logits->value.clone().to(Device::host));
    const auto seed = static_cast<std::uint64_t>(5 + m);
    const FixedSum loss = ordinal_loss(logits, target_of(tile, domain, own_leads, ports.classes, seed), tape);
    if (grid.counts()) out.loss += loss.value();
  };
  batch.whole = [&](auto whole) {
    for (const Parameter* p : whole)
      ++told[static_cast<std::size_t>(std::ranges::find(parameters, p) - parameters.begin())];
    sync.complete(whole);
  };
  std::vector<Instruction> followed;
  batch.followed = [&](const Instruction& what) { followed.push_back(what); };
  pipeline.run(batch);
  sync.finish();
  world.all_reduce(std::span(&out.loss, 1), Reduce::sum);
  EXPECT_EQ(followed, list_instructions(step.stages, grid.stage(), step.samples, pipeline.stages().links()));
  EXPECT_EQ(told, std::vector<int>(parameters.size(), 1)) << "each parameter is whole once";
  for (const Var& input : inputs) {
    out.input_gradients.push_back(input->grad.clone().to(Device::host));
    EXPECT_TRUE(std::ranges::any_of(out.input_gradients.back().storage(), [](float v) { return v != 0; }));
  }
  for (const Parameter* p : parameters) out.gradients.push_back(values_of(p->grad));
  return out;
}

/// That a rank of a partition has its part of what one rank has alone: logits and input gradients of every
/// sample in the last stage and in the first, to the bit, and the loss.
inline void expect_same_samples(const StepOutcome& many, const StepOutcome& single,
                                const Partition& partition, int rank, bool first = true, bool last = true) {
  const auto same = [&](const std::vector<Tensor>& parts, const std::vector<Tensor>& all, bool here, Span t) {
    EXPECT_EQ(parts.size(), here ? all.size() : 0);
    for (std::size_t m = 0; m < parts.size(); ++m)
      EXPECT_EQ(differences(parts[m], all[m], partition.tile(rank, 0), t), 0) << "sample " << m;
  };
  const bool whole = partition.time.parts() == 1;
  same(many.logits, single.logits, last, whole ? Span{0, single.logits[0].shape().t} : partition.leads(rank));
  same(many.input_gradients, single.input_gradients, first,
       whole ? Span{0, single.input_gradients[0].shape().t} : partition.frames(rank));
  EXPECT_NEAR(many.loss, single.loss, 1e-9 * single.loss);
}

/// Of the parameters' gradients without blocks, which depend on who sums what.
inline void expect_near_gradients(const StepOutcome& many, const StepOutcome& single) {
  const auto largest = [](const std::vector<float>& values) {
    double out = 0;
    for (const float v : values) out = std::max(out, std::abs(double{v}));
    return out;
  };
  double most = 0; // the gradients of the keys' biases are zero but for rounding
  for (const auto& gradient : single.gradients) most = std::max(most, largest(gradient));
  for (std::size_t p = 0; p < single.gradients.size(); ++p) {
    std::vector<float> apart = many.gradients[p];
    for (std::size_t i = 0; i < apart.size(); ++i) apart[i] -= single.gradients[p][i];
    EXPECT_LE(largest(apart), 1e-4 * largest(single.gradients[p]) + 1e-6 * most)
        << "parameter " << p << " without blocks";
  }
}

} // namespace pluvia::test
