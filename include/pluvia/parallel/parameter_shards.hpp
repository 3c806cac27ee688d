#pragma once
#include <span>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/span.hpp"

namespace pluvia {

/// Who owns what of the parameters that some ranks all hold: their values count on from one parameter to the
/// next, and are cut into equal runs, one for each rank. What only updates need is kept for a rank's own
/// values alone (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054).
class ParameterShards {
public:
  /// A part of one parameter's values, and where it begins among all that is cut out.
  struct Piece {
    Parameter* parameter;
    Span values;
    Index at;
  };

  /// `comm`: the ranks that hold the same parameters. Both must outlive it. Local.
  ParameterShards(const Communicator& comm, std::vector<Parameter*> parameters);

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  /// Of this rank, in the order of the parameters.
  const std::vector<Piece>& own() const { return own_; }
  /// Values in all of them.
  Index size() const { return run_of(comm_.rank()).size(); }

  /// The own values of the parameters, one after the other. Local.
  std::vector<float> values() const;
  /// Sets those, on every rank its own, of the parameters of all ranks. Collective.
  void set_values(std::span<const float> own);
  /// Brings every rank's own values to all others. Collective.
  void gather();

  /// What the rank that has most of `values` has, when so many ranks share them.
  static Index most_of(Index values, int ranks) { return (values + ranks - 1) / ranks; }

private:
  Span run_of(int rank) const;
  std::vector<Piece> cut(Span run) const;
  const Communicator& comm_;
  std::vector<Parameter*> parameters_;
  std::vector<Index> begins_; ///< of each parameter among all values; at last their number
  std::vector<Piece> own_;
};

} // namespace pluvia
