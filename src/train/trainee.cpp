#include "pluvia/train/trainee.hpp"

#include <fmt/format.h>

#include "pluvia/core/error.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/train/precision.hpp"

namespace pluvia {

namespace {

ProcessGrid share_batch_out(const Communicator& world, const Settings& settings) {
  if (settings.train.batch < settings.parallel.replicas)
    fail(ExitCode::usage,
         fmt::format("{} replicas have nothing to do", settings.parallel.replicas - settings.train.batch),
         fmt::format("train.batch is {}, parallel.replicas {}", settings.train.batch,
                     settings.parallel.replicas),
         "Give each replica a sample.");
  return share_out(world, settings, settings.train.batch / settings.parallel.replicas, "train.batch");
}

} // namespace

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
