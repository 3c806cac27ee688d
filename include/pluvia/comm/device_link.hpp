#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Sends messages from accelerator to accelerator and adds up over accelerators, without a detour through the
/// hosts' memory (NCCL); the pretend accelerator's go through MPI. All that is started on any link is done in
/// the order in which it was started, which must be the same on all ranks of two links that share some.
class DeviceLink {
public:
  struct Message {
    int peer;
    float* data; ///< in the accelerator's memory
    std::size_t size;
  };
  /// Whether all ranks can have one: each needs an accelerator of its own, and there must be more than one
  /// rank. Collective.
  static bool possible(const Communicator& comm);
  /// `comm` must outlive it. Throws Error with the library's reason. Collective.
  explicit DeviceLink(const Communicator& comm);
  ~DeviceLink();
  DeviceLink(const DeviceLink&) = delete;
  DeviceLink& operator=(const DeviceLink&) = delete;

  /// Starts once the work that was asked for before is done, and travels beside what is asked for next. The
  /// data must stay until finish(). Collective: every rank starts the exchanges in the same order.
  void start(const std::vector<Message>& outgoing, const std::vector<Message>& incoming);
  /// Starts to add up arrays over all ranks, in place; else as start(). Collective.
  void start_sums(const std::vector<std::span<float>>& arrays);
  /// Starts to copy arrays from the rank that is their peer to all others; else as start(). Collective: the
  /// same ones on all ranks.
  void start_broadcasts(const std::vector<Message>& arrays);
  /// What is asked for next comes after all that was started on this link. Throws Error when a peer is lost.
  /// Local.
  void finish();

private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

} // namespace pluvia
