#include "pluvia/train/trainee.hpp"

#include <utility>

#include <fmt/format.h>

#include "pluvia/core/error.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/train/precision.hpp"
#include "pluvia/train/step_recorder.hpp"

namespace pluvia {

namespace {

ProcessGrid share_batch_out(const Communicator& world, const Settings& settings) {
  return share_out(world, settings, samples_for_replica(settings), "train.batch");
}

} // namespace

std::int64_t samples_for_replica(const Settings& settings) {
  const std::int64_t batch = settings.train.batch, replicas = settings.parallel.replicas;
  if (batch < replicas)
    fail(ExitCode::usage, fmt::format("{} of {} replicas have nothing to do", replicas - batch, replicas),
         fmt::format("train.batch is {}", batch), "Give each replica a sample.");
  return batch / replicas;
}

Trainee::Trainee(const Communicator& world, const Settings& settings, const Grid& domain,
                 const StUnetPorts& ports, ProcessGrid shares, Device device, Precision precision)
    : device(device), precision(precision), grid(std::move(shares)),
      tiles(grid.tiles, layout(settings, domain, grid.tiles.size(), whole_blocks(settings))), ports(ports),
      network(make_network(settings, ports, device)), shards(world, network.parameters().all()),
      adam(make_adam(shards)),
      shared(grid.channels.size() > 1
                 ? std::optional<Decomposition>(std::in_place, grid.tiles, tiles.partition(), &grid.channels)
                 : std::nullopt),
      step_tiles(shared ? *shared : tiles),
      pipeline(network, this->ports, step_tiles, grid.stages,
               cut_stages(settings.model, ports, tiles.tiling(), grid.stages.size())) {
  if (settings.train.exact) network.parameters().sum_in_blocks();
  if (device == Device::host) return;
  said.push_back(tiles.link_accelerators());
  if (shared) shared->link_accelerators();
  gradients = link_gradients(world, grid.stages.size());
  if (!gradients.said.empty()) said.push_back(gradients.said);
  if (gradients.link) shards.link_accelerators();
  obstacle = recording_obstacle(settings, step_tiles, world, world.size() == 1 || gradients.link != nullptr);
}

Trainee make_trainee(const Communicator& world, const Settings& settings, const Grid& domain) {
  const Device device = agree_device(world, settings);
  const Precision precision = agree_precision(world, settings.train.precision, device);
  return {world, settings, domain, ports_of(settings), share_batch_out(world, settings), device, precision};
}

} // namespace pluvia
