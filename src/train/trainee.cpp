#include "pluvia/train/trainee.hpp"

#include <fmt/format.h>

#include "pluvia/core/error.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/train/precision.hpp"

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

Trainee::Trainee(const Communicator& world, const Settings& settings, const Grid& domain)
    : device(agree_device(world, settings)),
      precision(agree_precision(world, settings.train.precision, device)),
      grid(share_batch_out(world, settings)),
      tiles(grid.tiles, layout(settings, domain, grid.tiles.size(), whole_blocks(settings))),
      network(make_network(settings, device)), shards(world, network.parameters().all()),
      adam(make_adam(shards)) {
  if (settings.train.exact) network.parameters().sum_in_blocks();
}

} // namespace pluvia
