#pragma once
#include <optional>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/io/grid.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/parallel/decomposition.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "pluvia/parallel/parameter_shards.hpp"
#include "pluvia/train/adam.hpp"

namespace pluvia {

/// The samples of a step that every replica has at least. Throws a usage Error when some have none.
std::int64_t samples_for_replica(const Settings& settings);

/// A network in training: what each rank has of the work and of the domain, the weights and their optimiser,
/// and the ways between accelerators.
struct Trainee {
  /// With the weights that training starts from, on all ranks of `world`, which must outlive it, and on that
  /// grid; links accelerators as far as possible. Collective. Throws a usage Error when the ranks do not fit.
  Trainee(const Communicator& world, const Settings& settings, const Grid& domain, const StUnetPorts& ports,
          ProcessGrid shares, Device device, Precision precision);
  Trainee(const Trainee&) = delete; // its members know each other's places
  Trainee& operator=(const Trainee&) = delete;

  /// Whether of the ranks that hold the same fields this one writes them: all crews hold the same, and so do
  /// all parts of a tile.
  bool writes_fields() const { return grid.crew() == 0 && tiles.part() == 0; }

  Device device;
  Precision precision; ///< of training steps; validation and calibration are in f32, as forecasts are
  ProcessGrid grid;
  Decomposition tiles; ///< of this rank's crew
  StUnetPorts ports;
  StUnet network;
  ParameterShards shards; ///< over all ranks: every one has all weights
  Adam adam;
  std::optional<Decomposition> shared; ///< the same tiles, where steps share out channels
  Decomposition& step_tiles;           ///< those of steps
  Pipeline pipeline;
  GradientLink gradients = {};        ///< of accelerators
  std::vector<std::string> said = {}; ///< of what travels how between accelerators, for people
  std::string obstacle = "they are no accelerator's"; ///< to recording steps; empty: none
};

/// The one that the settings describe. Collective. Throws a usage Error, too, when the ranks cannot compute
/// as they are asked to.
Trainee make_trainee(const Communicator& world, const Settings& settings, const Grid& domain);

} // namespace pluvia
