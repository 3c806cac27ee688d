#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/data/sampler.hpp"
#include "pluvia/io/grid.hpp"
#include "pluvia/model/checkpoint.hpp"
#include "pluvia/nn/st_unet.hpp"

namespace pluvia {

/// How ranks share the steps of a training: parallel.replicas, stages and tensor, where each replica has so
/// many samples in a step, by the setting `key`. Collective. Throws a usage Error when network, samples or
/// ranks do not divide like that.
ProcessGrid share_out(const Communicator& comm, const Settings& settings, std::int64_t samples,
                      const std::string& key);

/// Blocks that a partition keeps whole, for exact training: cells along a side, frames or leads. 0: any cut.
struct WholeBlocks {
  Index cells = 0, frames = 0;
};
/// How the grid of an archive, its frames and leads are cut for a model over ranks: parallel.time, rows and
/// cols, or the squarest tiles. Throws a usage Error when the ranks do not fit.
Partition layout(const Settings& settings, const Grid& grid, int ranks, const WholeBlocks& blocks = {});

/// What each reader of an archive may keep decoded, so that all readers of a rank stay below data.cache_mib:
/// the samples' own and, where the base is a regression, that of the surroundings of the tile.
std::size_t reader_cache_bytes(const Settings& settings, bool regression);

/// What that network is built from, besides its settings.
StUnetPorts ports_of(const Settings& settings);
/// The network that the settings describe, with such ports, freshly initialised from train.seed.
StUnet make_network(const Settings& settings, const StUnetPorts& ports, Device device = Device::host);

/// What the logits of this rank's leads start from: logarithms of the class probabilities of all leads.
Var base_leaf(const Decomposition& tiles, const std::vector<std::vector<float>>& base, int classes);

/// Logits of one forecast: [1, leads of this rank, Y, X, classes]. `base` holds the class probabilities of
/// each lead's window, of all leads, that they start from, the same as the input was made with; `probe` as
/// StUnet::forward takes it. Collective over tiles.comm().
Var predict(StUnet& network, Tape& tape, Decomposition& tiles, SampleInput input,
            const std::vector<std::vector<float>>& base, int classes, AttentionProbe* probe = nullptr);

/// P(amount >= threshold) of every lead of the logits: [leads x thresholds x height x width], from logits.
/// Local.
std::vector<float> exceedance_fields(const Tensor& logits);

/// Throws a usage Error when `wanted` contradicts what the checkpoint `path` was trained with; `otherwise`
/// says what else can be done about it.
void require_same_model(const Settings& trained, const std::string& path, const Settings& wanted,
                        const std::string& otherwise);

// Parameters are a checkpoint's arrays "PREFIX/NAME".
std::vector<std::int64_t> extents_of(const Parameter& parameter);
/// Whether it has all of these, in their shapes.
bool has_parameters(const Checkpoint& checkpoint, const std::string& prefix,
                    const std::vector<Parameter*>& parameters);
/// Throws a data Error when it has not.
void load_parameters(const Checkpoint& checkpoint, const std::string& prefix,
                     const std::vector<Parameter*>& parameters);

} // namespace pluvia
