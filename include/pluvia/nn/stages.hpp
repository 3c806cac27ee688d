#pragma once
#include <string>
#include <vector>

#include "pluvia/comm/partition.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/parallel/stage_schedule.hpp"

namespace pluvia {

/// How a network is cut into stages: each has some neighbouring pieces. A plain value.
struct Stages {
  /// A value that one stage makes and another one uses: the main line, or the skip of a level.
  struct Crossing {
    static constexpr int main_line = -1;
    int from, to;
    int skip = main_line;
  };
  std::vector<Span> pieces;        ///< of each stage, in list_pieces(settings)
  std::vector<Crossing> crossings; ///< in the order in which they are sent

  int count() const { return static_cast<int>(pieces.size()); }
  /// Who sends to whom, each pair once.
  std::vector<StageLink> links() const;
};

/// Throws a usage Error when a network has fewer pieces than stages, or a replica fewer samples in a step,
/// whose number `key` gives. Local.
void require_stages(const ModelSettings& settings, int stages, std::int64_t samples, const std::string& key);

/// Cuts so that the most arithmetic of any stage, forward and backward as list_operators counts it for the
/// whole domain, is least. There are as many pieces at least. Local.
Stages cut_stages(const ModelSettings& settings, const StUnetPorts& ports, const Tiling& tiling, int stages);

/// Of one sample on one rank of its stage's partition.
Shape crossing_shape(const Stages& stages, const Stages::Crossing& crossing, const ModelSettings& settings,
                     const StUnetPorts& ports, const Partition& partition, int rank);

/// Arithmetic of one sample in each stage [floating-point operations], on one rank of a partition.
std::vector<StageCosts> stage_costs(const Stages& stages, const ModelSettings& settings,
                                    const StUnetPorts& ports, const Partition& partition, int rank,
                                    const ChannelShare& share = {});

/// What a rank of a stage holds for the backward pass, at most, when each replica has so many samples in a
/// step [bytes].
std::int64_t held_bytes(const Stages& stages, int stage, std::int64_t samples, const ModelSettings& settings,
                        const StUnetPorts& ports, const Partition& partition, int rank, Tape::Keep keep,
                        const ChannelShare& share = {});

/// "encode 0 to attend 2": pieces and their levels.
std::string describe(Span pieces, const ModelSettings& settings);

} // namespace pluvia
