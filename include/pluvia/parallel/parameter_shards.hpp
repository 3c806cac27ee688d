#pragma once
#include <memory>
#include <span>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/device_link.hpp"
#include "pluvia/core/span.hpp"

namespace pluvia {

/// Who owns what of the parameters that some ranks all hold: their values count on from one parameter to the
/// next, and are cut into equal runs, one for each rank of a group. What only updates need is kept for a
/// rank's own values alone (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054). Every group of neighbouring
/// ranks owns all values, so that to gather them takes as long on thousands of ranks as on one group.
class ParameterShards {
public:
  static constexpr int most_sharing = 16; ///< ranks: with more, what a rank keeps hardly shrinks any more

  /// A part of one parameter's values, and where it begins among all that is cut out.
  struct Piece {
    Parameter* parameter;
    Span values;
    Index at;
  };

  /// `comm`: the ranks that hold the same parameters, and get the same sums of gradients, to the bit: groups
  /// do not compare what they own but in agree(). `most`: of a group. Both must outlive it. Collective.
  ParameterShards(const Communicator& comm, std::vector<Parameter*> parameters, int most = most_sharing);
  /// From now on values travel from accelerator to accelerator. Precondition: each rank has one of its own.
  /// Collective.
  void link_accelerators();

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  /// Of this rank, in the order of the parameters.
  const std::vector<Piece>& own() const { return own_; }
  /// Values in all of them.
  Index size() const { return run_of(group_.rank()).size(); }
  /// Whether this rank is one of the first group: what is written once, these write.
  bool first_group() const { return first_; }

  /// The own values of the parameters, one after the other. Local.
  std::vector<float> values() const;
  /// Sets those, on every rank its own, of the parameters of all ranks. Collective.
  void set_values(std::span<const float> own);
  /// Brings every rank's own values to all others of its group. Collective.
  void gather();

  /// Whether all groups have the same values, to the bit. Collective.
  bool agree() const;

  /// What the rank that has most of `values` has, when so many ranks hold them.
  static Index most_of(Index values, int ranks) {
    const int smallest = ranks / groups_of(ranks, most_sharing);
    return (values + smallest - 1) / smallest;
  }

private:
  Span run_of(int rank) const;
  std::vector<Piece> cut(Span run) const;
  /// As few as hold `ranks`, so even that their sizes differ by one at most.
  static int groups_of(int ranks, int most) { return (ranks + most - 1) / most; }
  static int group_of(int rank, int ranks, int most) { return rank * groups_of(ranks, most) / ranks; }
  const Communicator& comm_;
  bool first_;
  Communicator group_;
  std::unique_ptr<DeviceLink> link_;
  std::vector<Parameter*> parameters_;
  std::vector<Index> begins_; ///< of each parameter among all values; at last their number
  std::vector<Piece> own_;
};

} // namespace pluvia
