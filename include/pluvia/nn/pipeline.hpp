#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/nn/stages.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

/// One stage of a network: the ranks of `tiles` work on it, and `line` joins this rank with those that have
/// the same tile and frames in the other stages, its rank there being the number of the stage. Samples are
/// the micro-batches. Whatever the number of stages, values, gradients and the order in which a rank adds
/// gradients of samples to those of parameters are the same, to the bit, on the same tiles.
class Pipeline {
public:
  /// All must outlive it. Local.
  Pipeline(StUnet& network, const StUnetPorts& ports, Decomposition& tiles, const Communicator& line,
           Stages stages);

  bool first() const { return line_.rank() == 0; }
  bool last() const { return line_.rank() + 1 == line_.size(); }
  const Stages& stages() const { return stages_; }

  struct Sample {
    Var input = {}; ///< needed by the first stage
    Var base = {};  ///< needed by the last stage
    Dropout dropout = {};
  };
  /// The samples of a step, in order; the same number in every stage.
  struct Batch {
    int size = 0;
    std::function<std::unique_ptr<Tape>()> tape = {};
    std::function<Sample(int sample)> load = {};
    /// Last stage: sets the gradient of the logits.
    std::function<void(int sample, const Var& logits, const Tape& tape)> score = {};
    /// Is told of each parameter when nothing more will be added to its gradient on this rank.
    GradientListener whole = {};
    /// Is told of each instruction when it has been followed.
    std::function<void(const Instruction& what)> followed = {};
  };
  /// Forward and backward, by list_instructions(). Collective over tiles.comm() and the line.
  void run(const Batch& batch);

private:
  struct Running;
  StUnet& network_;
  Decomposition& tiles_;
  const Communicator& line_;
  Stages stages_;
  std::vector<StageLink> links_;
  std::vector<Shape> shapes_; ///< of the crossings
};

} // namespace pluvia
