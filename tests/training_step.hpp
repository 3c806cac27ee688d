#pragma once
// One training step of a network on random samples, on any process grid, for tests that compare grids.
#include <algorithm>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "random_field.hpp"
#include "rank_part.hpp"

namespace pluvia::test {

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
  std::vector<Tensor> logits;          ///< of every sample, on the ranks of the last stage
  std::vector<Tensor> input_gradients; ///< on those of the first
  std::vector<std::vector<float>> gradients;
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
    ordinal_loss(logits, target_of(tile, domain, own_leads, ports.classes, seed), tape);
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
  EXPECT_EQ(followed, list_instructions(step.stages, grid.stage(), step.samples, pipeline.stages().links()));
  EXPECT_EQ(told, std::vector<int>(parameters.size(), 1)) << "each parameter is whole once";
  for (const Var& input : inputs) out.input_gradients.push_back(input->grad.clone().to(Device::host));
  for (const Parameter* p : parameters) out.gradients.push_back(values_of(p->grad));
  return out;
}

} // namespace pluvia::test
