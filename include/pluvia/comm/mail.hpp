#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Arrays of any length that travel between two ranks while these do something else. What one rank sends to
/// another under one tag arrives in the order in which it was sent.
class Mail {
public:
  /// `comm` must outlive it. Local.
  explicit Mail(const Communicator& comm) : comm_(comm) {}
  /// After a failure waits until what was sent has left, but not for ever: the peer may never take it. Gives
  /// up what was expected and not awaited.
  ~Mail();
  Mail(const Mail&) = delete;
  Mail& operator=(const Mail&) = delete;

  /// Sends without waiting; `values` must not change until they have left, until when `owner` is held. Local.
  void send(int peer, int tag, std::span<const float> values, std::shared_ptr<const void> owner);
  /// Is ready for what a peer sends; `values` must stay until awaited, or outlive this. Local.
  void expect(int peer, int tag, std::span<float> values);
  /// Waits for the earliest that was expected of a peer under a tag and was not awaited.
  void await(int peer, int tag);
  /// Waits until all that was sent has left.
  void finish();

private:
  struct Outgoing {
    std::vector<MPI_Request> requests;
    std::shared_ptr<const void> owner;
  };
  struct Incoming {
    int peer, tag;
    std::vector<MPI_Request> requests;
  };
  const Communicator& comm_;
  std::vector<Outgoing> outgoing_;
  std::vector<Incoming> incoming_;
};

} // namespace pluvia
