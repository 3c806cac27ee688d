#include "pluvia/comm/pending_sums.hpp"

#include <utility>

#include "pluvia/comm/messages.hpp"

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
  if (done_in_time(requests_)) return;
  // The job is about to end; until then MPI may read and write here.
  static_cast<void>(new std::pair(std::move(shares_), std::move(sums_)));
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
  return all_done(requests_);
}

template <class T> std::vector<std::vector<T>> PendingSums<T>::finish() {
  wait_for(requests_);
  shares_.clear();
  return std::exchange(sums_, {});
}

template class PendingSums<float>;
template class PendingSums<std::int64_t>;

} // namespace pluvia
