#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <mpi.h>

namespace pluvia {

enum class Reduce { sum, min, max };

/// Owns one MPI communicator: duplicated on construction, freed on destruction, move-only.
class Communicator {
public:
  explicit Communicator(MPI_Comm source);
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  int rank() const { return rank_; }
  int size() const { return size_; }
  MPI_Comm raw() const { return comm_; }

  /// Ranks with the same colour, ordered by key. Collective.
  Communicator split(int colour, int key) const;
  /// Ranks that share this node's memory. Collective.
  Communicator split_by_node() const;

  // Collective over the communicator; in place on every rank.
  void all_reduce(std::span<float> values, Reduce op) const;
  void all_reduce(std::span<double> values, Reduce op) const;
  void all_reduce(std::span<std::int64_t> values, Reduce op) const;
  /// The bits that any rank has set.
  void all_reduce_or(std::span<std::uint8_t> values) const;
  void broadcast(std::span<std::byte> bytes, int root) const;
  void broadcast(std::string& text, int root) const;
  void barrier() const;
  /// Of as many equal parts as there are ranks, every rank's own from it to all others. Collective.
  void all_gather(std::span<float> values) const;
  /// Every rank's bytes on every rank, in rank order. Collective.
  std::vector<std::string> all_gather(const std::string& text) const;

private:
  struct Adopt {};
  Communicator(MPI_Comm owned, Adopt);
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
};

/// Runs `body` on every rank; when it throws on any, all ranks throw the error of the lowest such rank, so
/// that no rank is left waiting in a later collective. Collective; `body` itself must be local.
template <class Body> void together(const Communicator& comm, Body&& body);

namespace detail {
void agree(const Communicator& comm, const std::string& failure, int code);
struct Caught {
  std::string text;
  int code = 0;
};
Caught describe_current_exception();
} // namespace detail

template <class Body> void together(const Communicator& comm, Body&& body) {
  detail::Caught caught;
  try {
    body();
  } catch (...) {
    caught = detail::describe_current_exception();
  }
  detail::agree(comm, caught.text, caught.code);
}

/// Sends `data` to a peer and receives as much from it: rank order decides who begins. For measuring. Both
/// ranks call it.
void bounce(const Communicator& comm, std::span<std::byte> data, int peer);

/// Throws a failed Error when an MPI call did not succeed. Local.
void mpi_check(int return_code, const char* call);

} // namespace pluvia
