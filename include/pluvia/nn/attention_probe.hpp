#pragma once
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/parallel/stencil.hpp"

namespace pluvia {

enum class AttentionKind {
  skip,     ///< lead-time queries over all frames and the cells around
  spatial,  ///< the last frame over the cells around
  temporal, ///< the last frame over all frames
  joint     ///< the last frame over all frames and the cells around
};

/// The weights of one attention at the probe's cells.
struct AttentionMap {
  AttentionKind kind;
  int level;                       ///< of the tiling
  std::vector<Span> rows, columns; ///< of each cell's keys, in unwrapped indices of the level
  Index queries = 0, heads = 0, frames = 0, height = 0, width = 0; ///< those of the largest window
  /// [cells x queries x heads x frames x height x width]; adds up to 1 over the keys, 0 past a smaller
  /// window.
  std::vector<float> weights;
};

/// How a level weighs spatial against temporal attention at the probe's cells in the last frame.
struct AttentionGate {
  int level;                        ///< of the tiling
  std::vector<float> spatial_share; ///< mean over channels of g: 1 = spatial alone, 0 = temporal alone
};

/// Notes, while a network is evaluated, what chosen cells attend to: on each level the cell that holds them.
struct AttentionProbe {
  struct Cell {
    Index y = 0, x = 0; ///< global, on level 0
  };
  std::vector<Cell> cells;
  std::vector<AttentionMap> maps; ///< in the order of evaluation; of this rank's cells until gathered
  std::vector<AttentionGate> gates;
};

/// What is shown an attention for the probe; empty without one. The probe must outlive it.
AttentionView watch(AttentionProbe* probe, AttentionKind kind, int level);
/// Notes the gate before its sigmoid, [1, T, Y, X, C] on a tile. Local.
void note_gate(AttentionProbe& probe, int level, const Tensor& gate, const Rect& tile);
/// Gives every rank what the owners of the cells noted. Collective.
void gather(const Communicator& comm, AttentionProbe& probe);

} // namespace pluvia
