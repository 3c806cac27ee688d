#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/device_link.hpp"
#include "pluvia/comm/pending_sums.hpp"

namespace pluvia {

/// Sums every parameter's gradient over the ranks: the transpose of replicating the parameters. Gradients
/// travel in buckets, of which each leaves as soon as its parameters and those of the buckets before are
/// whole. Buckets hold the parameters from the last to the first, in which order a network finishes them that
/// makes its parameters as it uses them; every rank starts the same ones in the same order, whatever it has
/// to add to them. Where gradients are collected in order-free sums, these are added and rounded: the same
/// bits on every process grid whose tiles begin on whole blocks. For one step.
class GradientSync {
public:
  static constexpr std::size_t bucket_size = 262144; ///< gradients, 1 MiB; a larger parameter has its own

  /// All must outlive it. Over a link, where given, gradients on accelerators travel from one to the other.
  /// Local.
  GradientSync(const Communicator& comm, const std::vector<Parameter*>& parameters,
               DeviceLink* link = nullptr);
  /// After a failure lets the other ranks finish.
  ~GradientSync();
  GradientSync(const GradientSync&) = delete;
  GradientSync& operator=(const GradientSync&) = delete;

  /// Nothing more will be added to these on this rank: what Tape::backward tells of the step's last sample.
  /// Starts what can be started and moves what is on its way. Collective, but waits for nobody.
  void complete(std::span<Parameter* const> whole);
  /// Starts the rest, waits for all (over a link, the accelerator does) and leaves the sums in the
  /// parameters' gradients. Collective.
  void finish();

  /// How long sums were on their way while gradients were pulled back, as the host sees it.
  double hidden_seconds() const { return hidden_seconds_; }

private:
  struct Bucket {
    std::size_t from, to; ///< of the parameters
  };
  template <class T> void start_next(PendingSums<T>& sums);
  void start_next();
  template <class T> void unpack(PendingSums<T>& sums);
  using Clock = std::chrono::steady_clock;
  void come_back();

  bool exact_, alone_;
  DeviceLink* link_;
  std::vector<Parameter*> parameters_; ///< from the last to the first
  std::vector<Bucket> buckets_;
  std::vector<bool> whole_;
  std::size_t ready_ = 0, started_ = 0; ///< parameters that are whole without a gap; buckets
  bool finished_ = false, travelling_ = false;
  PendingSums<float> floats_;
  PendingSums<std::int64_t> limbs_;
  Clock::time_point left_; ///< when complete() returned
  double hidden_seconds_ = 0;
};

/// A link that gradients of ranks in one stage can be summed over; none where they travel through the hosts'
/// memory, which stages need: their ranks do not start messages in one order. Says for people which it is.
/// Collective.
struct GradientLink {
  std::unique_ptr<DeviceLink> link;
  std::string said;
};
GradientLink link_gradients(const Communicator& comm, int stages);

} // namespace pluvia
