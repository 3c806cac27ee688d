#include "pluvia/comm/pending_sums.hpp"

#include <chrono>
#include <thread>
#include <utility>

namespace pluvia {

namespace {
template <class T> MPI_Datatype type_of();
template <> MPI_Datatype type_of<float>() {
  return MPI_FLOAT;
}
template <> MPI_Datatype type_of<std::int64_t>() {
  return MPI_INT64_T;
}
} // namespace

template <class T> PendingSums<T>::~PendingSums() {
  using namespace std::chrono_literals;
  constexpr auto patience = 2s; // ranks that fail together unwind within milliseconds of each other
  const auto start = std::chrono::steady_clock::now();
  const auto arrived = [&] {
    int all = 0;
    return MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE) !=
               MPI_SUCCESS ||
           all != 0;
  };
  while (!arrived()) {
    if (std::chrono::steady_clock::now() - start > patience) {
      // The job is about to end; until then MPI may read and write here.
      static_cast<void>(new std::pair(std::move(shares_), std::move(sums_)));
      return;
    }
    std::this_thread::sleep_for(1ms);
  }
}

template <class T> void PendingSums<T>::start(std::vector<T> share) {
  shares_.push_back(std::move(share));
  sums_.emplace_back(shares_.back().size());
  requests_.push_back(MPI_REQUEST_NULL);
  mpi_check(MPI_Iallreduce(shares_.back().data(), sums_.back().data(), static_cast<int>(sums_.back().size()),
                           type_of<T>(), MPI_SUM, comm_.raw(), &requests_.back()),
            "MPI_Iallreduce");
}

template <class T> bool PendingSums<T>::advance() {
  int all = 0;
  mpi_check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE),
            "MPI_Testall");
  return all != 0;
}

template <class T> std::vector<std::vector<T>> PendingSums<T>::finish() {
  mpi_check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
            "MPI_Waitall");
  requests_.clear();
  shares_.clear();
  return std::exchange(sums_, {});
}

template class PendingSums<float>;
template class PendingSums<std::int64_t>;

} // namespace pluvia
