#include "clock.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <utility>

#include <simgrid/actor.h>
#include <simgrid/host.h>
#include <smpi/smpi.h>

namespace pluvia {

namespace {

constexpr double flop_of_a_second = 1e9;
// Tags of comm/ and parallel/.
constexpr int halo_tag = 11, relay_tag = 12, gather_tag = 31, value_tag = 21, gradient_tag = 22,
              first_sum_tag = 1000;

double bytes_per_second = 1;

/// What nobody reads: sums of all ranks share it.
void* scratch() {
  static void* const memory = mmap(nullptr, std::size_t{1} << 32, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory;
}

} // namespace

RankClock& RankClock::mine() {
  static std::map<aid_t, RankClock> clocks;
  const auto [clock, fresh] = clocks.try_emplace(sg_actor_self_get_pid());
  if (fresh) clock->second.speed_ = sg_host_get_speed(sg_host_self()) / flop_of_a_second;
  return clock->second;
}

void RankClock::set_bytes_per_second(double rate) {
  bytes_per_second = rate;
}

void RankClock::pass(double seconds, double& account) {
  due_ += seconds;
  account += seconds / speed_;
}

void RankClock::copy(std::int64_t bytes) {
  pass(2 * static_cast<double>(bytes) / bytes_per_second, spent_.copies);
}

void RankClock::catch_up() {
  if (due_ > 0) smpi_execute_flops(due_ * flop_of_a_second);
  due_ = 0;
}

void RankClock::book_since(double start, double& account) {
  account += PMPI_Wtime() - start;
}

void RankClock::note_send(int tag, std::int64_t bytes) {
  last_tag_ = tag;
  if (tag == halo_tag || tag == relay_tag || (tag == gather_tag && !packed_)) copy(bytes);
  packed_ = tag == gather_tag;
}

void RankClock::note_receive(int tag, std::int64_t bytes) {
  last_tag_ = tag;
  if (tag == halo_tag || tag == gather_tag) incoming_bytes_ += bytes;
}

void RankClock::note_request(int tag, MPI_Request request) {
  if (tag == value_tag || tag == gradient_tag)
    of_stages_.insert(request);
  else
    of_stages_.erase(request); // one that is used again
}

void RankClock::wait(std::span<MPI_Request> requests) {
  catch_up();
  const double start = PMPI_Wtime();
  if (!requests.empty() && of_stages_.erase(requests.front()) > 0) {
    wait_moving(requests);
    return book_since(start, spent_.stages);
  }
  wait_moving(requests);
  book_since(start, last_tag_ == gather_tag ? spent_.gathers : spent_.halos);
  packed_ = false;
  copy(std::exchange(incoming_bytes_, 0));
}

std::vector<RankClock::Step> RankClock::steps_of(int rank, int size, std::int64_t bytes) {
  int power = 1;
  while (2 * power <= size) power *= 2;
  const int rest = size - power; // as many pairs first become one
  std::vector<Step> out;
  int place = rank - rest;
  if (rank < 2 * rest) {
    if (rank % 2 == 0) return {{rank + 1, bytes, 0, false}, {rank + 1, 0, bytes, false}};
    out.push_back({rank - 1, 0, bytes, true});
    place = rank / 2;
  }
  const auto rank_at = [&](int p) { return p < rest ? 2 * p + 1 : p + rest; };
  std::int64_t part = bytes;
  for (int mask = 1; mask < power; mask *= 2) {
    part = (part + 1) / 2;
    out.push_back({rank_at(place ^ mask), part, part, true});
  }
  for (int mask = power / 2; mask > 0; mask /= 2, part *= 2)
    out.push_back({rank_at(place ^ mask), part, part, false});
  if (rank < 2 * rest) out.push_back({rank - 1, bytes, 0, false});
  return out;
}

void RankClock::start_sum(MPI_Comm comm, std::int64_t bytes) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank), MPI_Comm_size(comm, &size);
  copy(bytes), copy(bytes); // from the gradients, into one message
  sizes_.push_back(bytes);
  sums_.push_back({comm, first_sum_tag + tags_++, steps_of(rank, size, bytes)});
}

void RankClock::begin_step(Sum& sum) {
  const Step& step = sum.steps[sum.at];
  sum.begun = true;
  catch_up();
  if (step.received > 0)
    PMPI_Irecv(scratch(), static_cast<int>(step.received), MPI_BYTE, step.peer, sum.tag, sum.comm,
               &sum.requests[0]);
  if (step.sent > 0)
    PMPI_Isend(scratch(), static_cast<int>(step.sent), MPI_BYTE, step.peer, sum.tag, sum.comm,
               &sum.requests[1]);
}

/// The requests that are under way, of some arrays of them, and where they stand.
struct RankClock::UnderWay {
  std::vector<MPI_Request> all;
  std::vector<MPI_Request*> places;
  void add(std::span<MPI_Request> requests) {
    for (MPI_Request& r : requests)
      if (r != MPI_REQUEST_NULL) all.push_back(r), places.push_back(&r);
  }
  void put_back() {
    for (std::size_t i = 0; i < all.size(); ++i) *places[i] = all[i];
  }
  void wait_for_one() {
    int which = MPI_UNDEFINED;
    PMPI_Waitany(static_cast<int>(all.size()), all.data(), &which, MPI_STATUS_IGNORE);
    put_back();
  }
  /// Lets go of those that have ended; one question for all, for each costs SimGrid a change of context.
  void test() {
    for (int gone = 1, which = 0; gone != 0 && which != MPI_UNDEFINED;)
      PMPI_Testany(static_cast<int>(all.size()), all.data(), &which, &gone, MPI_STATUS_IGNORE);
    put_back();
  }
};

void RankClock::wait_moving(std::span<MPI_Request> requests) {
  while (true) {
    const bool arrived = advance_sums();
    UnderWay under_way;
    under_way.add(requests);
    if (under_way.all.empty()) return;
    if (arrived) {
      PMPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
      return;
    }
    for (Sum& sum : sums_) under_way.add(sum.requests);
    under_way.wait_for_one();
  }
}

bool RankClock::advance_sums() {
  if (sums_.empty()) return true;
  catch_up();
  UnderWay under_way;
  for (Sum& sum : sums_) under_way.add(sum.requests);
  under_way.test();
  for (Sum& sum : sums_) {
    while (sum.at < sum.steps.size()) {
      if (!sum.begun) begin_step(sum);
      if (std::ranges::any_of(sum.requests, [](MPI_Request r) { return r != MPI_REQUEST_NULL; })) break;
      // The additions: two values are read and one written for each.
      if (const Step& step = sum.steps[sum.at]; step.adds)
        pass(3 * static_cast<double>(step.received) / bytes_per_second, spent_.sums);
      ++sum.at, sum.begun = false;
    }
  }
  std::erase_if(sums_, [](const Sum& sum) { return sum.at == sum.steps.size(); });
  return sums_.empty();
}

std::vector<std::int64_t> RankClock::finish_sums() {
  catch_up();
  const double start = PMPI_Wtime(), added = spent_.sums;
  while (!advance_sums()) {
    UnderWay under_way;
    for (Sum& sum : sums_) under_way.add(sum.requests);
    under_way.wait_for_one();
  }
  catch_up();
  spent_.sums = added + PMPI_Wtime() - start;
  for (const std::int64_t bytes : sizes_) copy(bytes);
  return std::exchange(sizes_, {});
}

} // namespace pluvia

// The program's MPI calls that send or wait. Linked so that they come before the library's.

using pluvia::RankClock;

namespace {
std::int64_t bytes_of(int count, MPI_Datatype type) {
  int size = 0;
  MPI_Type_size(type, &size);
  return std::int64_t{count} * size;
}
} // namespace

extern "C" {

int MPI_Isend(const void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
              MPI_Request* request) {
  RankClock& clock = RankClock::mine();
  clock.note_send(tag, bytes_of(count, type));
  clock.catch_up();
  const int code = PMPI_Isend(data, count, type, peer, tag, comm, request);
  clock.note_request(tag, *request);
  return code;
}

int MPI_Irecv(void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
              MPI_Request* request) {
  RankClock& clock = RankClock::mine();
  clock.note_receive(tag, bytes_of(count, type));
  clock.catch_up();
  const int code = PMPI_Irecv(data, count, type, peer, tag, comm, request);
  clock.note_request(tag, *request);
  return code;
}

int MPI_Waitall(int n, MPI_Request* requests, MPI_Status*) {
  RankClock::mine().wait({requests, static_cast<std::size_t>(n)});
  return MPI_SUCCESS;
}

int MPI_Allgather(const void* from, int count, MPI_Datatype type, void* to, int received, MPI_Datatype as,
                  MPI_Comm comm) {
  int size = 1;
  MPI_Comm_size(comm, &size);
  RankClock& clock = RankClock::mine();
  clock.copy(size * bytes_of(received, as)); // into the parameters
  clock.catch_up();
  const double start = PMPI_Wtime();
  const int code = PMPI_Allgather(from, count, type, to, received, as, comm);
  clock.book_since(start, clock.spent().sums);
  return code;
}

int MPI_Recv(void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
             MPI_Status*) { // of Relay alone
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Irecv(data, count, type, peer, tag, comm, &request);
  RankClock::mine().wait({&request, 1});
  return MPI_SUCCESS;
}

int MPI_Allreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  RankClock& clock = RankClock::mine();
  clock.catch_up();
  const double start = PMPI_Wtime();
  const int code = PMPI_Allreduce(from, to, count, type, op, comm);
  clock.book_since(start, clock.spent().sums);
  return code;
}
}
