#include "pluvia/comm/communicator.hpp"

#include <new>
#include <utility>

#include "pluvia/core/error.hpp"

namespace pluvia {

void mpi_check(int return_code, const char* call) {
  if (return_code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(return_code, text, &length);
  fail(ExitCode::failed, std::string(call) + " failed", std::string(text, static_cast<std::size_t>(length)));
}

Communicator::Communicator(MPI_Comm source) {
  mpi_check(MPI_Comm_dup(source, &comm_), "MPI_Comm_dup");
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
}

Communicator::Communicator(MPI_Comm owned, Adopt) : comm_(owned) {
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
}

Communicator::~Communicator() {
  if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)), rank_(other.rank_), size_(other.size_) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(comm_, other.comm_);
  std::swap(rank_, other.rank_);
  std::swap(size_, other.size_);
  return *this;
}

Communicator Communicator::split(int colour, int key) const {
  MPI_Comm out = MPI_COMM_NULL;
  mpi_check(MPI_Comm_split(comm_, colour, key, &out), "MPI_Comm_split");
  return {out, Adopt{}};
}

Communicator Communicator::split_by_node() const {
  MPI_Comm out = MPI_COMM_NULL;
  mpi_check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &out),
            "MPI_Comm_split_type");
  return {out, Adopt{}};
}

namespace {
MPI_Op mpi_op(Reduce op) {
  switch (op) {
  case Reduce::min:
    return MPI_MIN;
  case Reduce::max:
    return MPI_MAX;
  default:
    return MPI_SUM;
  }
}
template <class T>
void all_reduce_in_place(std::span<T> values, Reduce op, MPI_Datatype type, MPI_Comm comm) {
  mpi_check(
      MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), type, mpi_op(op), comm),
      "MPI_Allreduce");
}
} // namespace

void Communicator::all_reduce_or(std::span<std::uint8_t> v) const {
  mpi_check(MPI_Allreduce(MPI_IN_PLACE, v.data(), static_cast<int>(v.size()), MPI_UINT8_T, MPI_BOR, comm_),
            "MPI_Allreduce");
}
void Communicator::all_reduce(std::span<float> v, Reduce op) const {
  all_reduce_in_place(v, op, MPI_FLOAT, comm_);
}
void Communicator::all_reduce(std::span<double> v, Reduce op) const {
  all_reduce_in_place(v, op, MPI_DOUBLE, comm_);
}
void Communicator::all_reduce(std::span<std::int64_t> v, Reduce op) const {
  all_reduce_in_place(v, op, MPI_INT64_T, comm_);
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) const {
  mpi_check(MPI_Bcast(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, root, comm_), "MPI_Bcast");
}

void Communicator::broadcast(std::string& text, int root) const {
  std::int64_t size = static_cast<std::int64_t>(text.size());
  mpi_check(MPI_Bcast(&size, 1, MPI_INT64_T, root, comm_), "MPI_Bcast");
  text.resize(static_cast<std::size_t>(size));
  mpi_check(MPI_Bcast(text.data(), static_cast<int>(size), MPI_BYTE, root, comm_), "MPI_Bcast");
}

void Communicator::barrier() const {
  mpi_check(MPI_Barrier(comm_), "MPI_Barrier");
}

void Communicator::all_gather(std::span<float> values) const {
  mpi_check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(),
                          static_cast<int>(values.size()) / size_, MPI_FLOAT, comm_),
            "MPI_Allgather");
}

std::vector<std::string> Communicator::all_gather(const std::string& text) const {
  std::vector<std::string> out(static_cast<std::size_t>(size_));
  for (int r = 0; r < size_; ++r) {
    std::string& piece = out[static_cast<std::size_t>(r)];
    if (r == rank_) piece = text;
    broadcast(piece, r);
  }
  return out;
}

void bounce(const Communicator& comm, std::span<std::byte> data, int peer) {
  constexpr int tag = 12;
  const auto send = [&] {
    mpi_check(MPI_Send(data.data(), static_cast<int>(data.size()), MPI_BYTE, peer, tag, comm.raw()),
              "MPI_Send");
  };
  const auto receive = [&] {
    mpi_check(MPI_Recv(data.data(), static_cast<int>(data.size()), MPI_BYTE, peer, tag, comm.raw(),
                       MPI_STATUS_IGNORE),
              "MPI_Recv");
  };
  if (comm.rank() < peer)
    send(), receive();
  else
    receive(), send();
}

namespace detail {

Caught describe_current_exception() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.what(), static_cast<int>(error.code())};
  } catch (const std::bad_alloc&) {
    return {
        "Memory is used up (a rank was given no more) Use more ranks or nodes; `pluvia plan` shows what each "
        "holds.",
        static_cast<int>(ExitCode::failed)};
  } catch (const std::exception& error) {
    return {error.what(), static_cast<int>(ExitCode::failed)};
  } catch (...) {
    return {"unknown error", static_cast<int>(ExitCode::failed)};
  }
}

void agree(const Communicator& comm, const std::string& failure, int code) {
  int first = code == 0 ? comm.size() : comm.rank();
  mpi_check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm.raw()), "MPI_Allreduce");
  if (first == comm.size()) return;
  std::string text = failure;
  mpi_check(MPI_Bcast(&code, 1, MPI_INT, first, comm.raw()), "MPI_Bcast");
  comm.broadcast(text, first);
  throw Error(static_cast<ExitCode>(code), text);
}

} // namespace detail
} // namespace pluvia
