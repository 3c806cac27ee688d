#include "pluvia/model/forecast_model.hpp"

#include <algorithm>
#include <span>
#include <string>

#include "pluvia/core/error.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/nn/stages.hpp"
#include "pluvia/ops/loss.hpp"

namespace pluvia {

ProcessGrid share_out(const Communicator& comm, const Settings& settings, std::int64_t samples,
                      const std::string& key) {
  const auto stages = static_cast<int>(settings.parallel.stages),
             tensor = static_cast<int>(settings.parallel.tensor);
  require_stages(settings.model, stages, samples, key);
  require_shares(settings.model, tensor);
  return make_process_grid(comm, static_cast<int>(settings.parallel.replicas), stages, tensor);
}

Partition layout(const Settings& settings, const Grid& grid, int ranks, const WholeBlocks& blocks) {
  const std::string& wanted = settings.grid.periodic_x;
  const bool periodic = wanted == "yes" || (wanted == "auto" && closes_in_longitude(grid));
  const int levels = levels_of(settings.model), parts = static_cast<int>(settings.parallel.time);
  if (ranks % parts != 0)
    fail(ExitCode::usage, std::to_string(ranks) + " ranks cannot be shared out over time",
         "parallel.time is " + std::to_string(parts), "Start a multiple of that many ranks.");
  const TimeAxis time(parts, settings.model.history, static_cast<Index>(settings.target.leads_hours.size()),
                      std::max<Index>(1, blocks.frames));
  const GridShape shape =
      choose_grid_shape(grid.ny(), grid.nx(), levels, ranks / parts, static_cast<int>(settings.parallel.rows),
                        static_cast<int>(settings.parallel.cols), blocks.cells);
  return {Tiling(grid.ny(), grid.nx(), levels, shape.rows, shape.cols,
                 periodic ? Edge::periodic : Edge::closed, blocks.cells),
          time};
}

std::size_t reader_cache_bytes(const Settings& settings, bool regression) {
  return static_cast<std::size_t>(settings.data.cache_mib * 1048576 / (regression ? 2 : 1));
}

StUnetPorts ports_of(const Settings& settings) {
  const SampleRule rule = make_sample_rule(settings);
  return {rule.channels(), settings.target.leads_hours, rule.classes()};
}

StUnet make_network(const Settings& settings, const StUnetPorts& ports, Device device) {
  StUnet network(settings.model, ports, static_cast<std::uint64_t>(settings.train.seed));
  network.parameters().move_to(device);
  return network;
}

Var base_leaf(const Decomposition& tiles, const std::vector<std::vector<float>>& base, int classes) {
  const Span leads = tiles.leads(static_cast<Index>(base.size()));
  const auto own =
      std::span(base).subspan(static_cast<std::size_t>(leads.from), static_cast<std::size_t>(leads.size()));
  return Tape::leaf(log_base(own, tiles.tile(0), classes));
}

Var predict(StUnet& network, Tape& tape, Decomposition& tiles, SampleInput input,
            const std::vector<std::vector<float>>& base, int classes, AttentionProbe* probe) {
  Var x = Tape::leaf(std::move(input.features));
  const Var start = base_leaf(tiles, base, classes);
  return network.forward(tape, tiles, std::move(x), start, {}, probe); // which lets go of x once it is read
}

std::vector<float> exceedance_fields(const Tensor& logits) {
  if (logits.device() == Device::gpu) return exceedance_fields(logits.to(Device::host));
  const Shape s = logits.shape();
  const Index thresholds = s.c - 1, cells = s.y * s.x;
  std::vector<float> out(static_cast<std::size_t>(s.t * thresholds * cells));
  parallel_for(s.t * s.y, [&](Index row) {
    const Index lead = row / s.y, y = row % s.y;
    std::vector<float> p(static_cast<std::size_t>(thresholds));
    for (Index x = 0; x < s.x; ++x) {
      exceedance(logits.cell(0, lead, y, x), static_cast<int>(s.c), p.data());
      for (Index k = 0; k < thresholds; ++k)
        out[static_cast<std::size_t>((lead * thresholds + k) * cells + y * s.x + x)] =
            std::min(p[static_cast<std::size_t>(k)], 1.0F); // a sum of all classes but one may round up
    }
  });
  return out;
}

void require_same_model(const Settings& trained, const std::string& path, const Settings& wanted,
                        const std::string& otherwise) {
  ModelSettings wanted_model = wanted.model, trained_model = trained.model;
  wanted_model.head_init = trained_model.head_init; // only where training started
  const auto refuse = [&](bool differs, const std::string& section) {
    if (differs)
      fail(ExitCode::usage, section + " is not what " + path + " was trained with",
           "a checkpoint fixes its network, its inputs and its target",
           "Take " + section + " from `pluvia info " + path + "`, or " + otherwise + ".");
  };
  refuse(wanted.target != trained.target, "target");
  refuse(wanted_model != trained_model, "model");
  refuse(wanted.data.predictors != trained.data.predictors, "data.predictors");
  refuse(wanted.data.target != trained.data.target, "data.target");
  refuse(wanted.data.precip_label != trained.data.precip_label, "data.precip_label");
}

std::vector<std::int64_t> extents_of(const Parameter& parameter) {
  const Shape s = parameter.value.shape();
  return {s.b, s.t, s.y, s.x, s.c};
}

bool has_parameters(const Checkpoint& checkpoint, const std::string& prefix,
                    const std::vector<Parameter*>& parameters) {
  return std::ranges::all_of(parameters, [&](const Parameter* p) {
    const auto found = checkpoint.arrays.find(prefix + "/" + p->name);
    return found != checkpoint.arrays.end() && found->second.extents == extents_of(*p);
  });
}

void load_parameters(const Checkpoint& checkpoint, const std::string& prefix,
                     const std::vector<Parameter*>& parameters) {
  if (!has_parameters(checkpoint, prefix, parameters))
    fail(ExitCode::data, "The checkpoint holds another model",
         "it has not all " + prefix + "/... of this network in their shapes",
         "Use the configuration it was trained with, or train anew.");
  for (Parameter* p : parameters) set_values(p->value, checkpoint.arrays.at(prefix + "/" + p->name).values);
}

} // namespace pluvia
