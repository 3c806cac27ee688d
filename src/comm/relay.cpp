#include "pluvia/comm/relay.hpp"

#include <algorithm>

#include "pluvia/core/stopwatch.hpp"

namespace pluvia {

namespace {

constexpr int tag = 12;

int neighbour(const Communicator& line, int step) {
  const int rank = line.rank() + step;
  return rank < 0 || rank >= line.size() ? MPI_PROC_NULL : rank;
}

} // namespace

Relay::Relay(const Communicator& line, Direction direction, HaloCost& cost)
    : line_(line), cost_(cost), before_(neighbour(line, direction == Direction::up ? -1 : 1)),
      after_(neighbour(line, direction == Direction::up ? 1 : -1)) {}

Relay::~Relay() {
  const Stopwatch waiting(cost_.wait_seconds);
  MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
}

void Relay::take(std::span<float> values) {
  if (before_ == MPI_PROC_NULL) {
    std::ranges::fill(values, 0.0F);
    return;
  }
  const Stopwatch waiting(cost_.wait_seconds);
  mpi_check(MPI_Recv(values.data(), static_cast<int>(values.size()), MPI_FLOAT, before_, tag, line_.raw(),
                     MPI_STATUS_IGNORE),
            "MPI_Recv");
}

void Relay::pass(std::vector<float> values) {
  if (after_ == MPI_PROC_NULL) return;
  leaving_.push_back(std::move(values));
  const std::vector<float>& sent = leaving_.back();
  mpi_check(MPI_Isend(sent.data(), static_cast<int>(sent.size()), MPI_FLOAT, after_, tag, line_.raw(),
                      &requests_.emplace_back()),
            "MPI_Isend");
  cost_.bytes += static_cast<std::int64_t>(sent.size() * sizeof(float));
  ++cost_.messages;
}

} // namespace pluvia
