#pragma once
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include <mpi.h>

namespace pluvia {

/// Where the time of a simulated rank goes [seconds of its host].
struct Spent {
  double operators = 0, copies = 0;                    ///< work
  double halos = 0, gathers = 0, stages = 0, sums = 0; ///< waiting for others; sums with their additions
};

/// The clock of one simulated rank, which stands still but for what is charged to it and for messages. MPI
/// calls of the program go through it (clock.cpp), so that whoever waits has done its work before, and
/// copies into and out of messages take time. Sums that travel move while their rank is in an MPI call.
class RankClock {
public:
  /// That of the simulated rank that runs.
  static RankClock& mine();
  /// Of the machine that was measured, for all ranks; copies read and write each byte.
  static void set_bytes_per_second(double rate);

  /// Seconds of the machine that was measured: put off until somebody may be waiting, for SimGrid slows down
  /// with every activity that a rank has begun.
  void work(double seconds) { pass(seconds, spent_.operators); }
  void copy(std::int64_t bytes);
  void catch_up();

  /// Rabenseifner's all-reduce of so many bytes, in steps of which each begins when the one before is seen to
  /// have ended, as in an MPI library without threads of its own. SimGrid's MPI_Iallreduce sends everything
  /// to everybody.
  void start_sum(MPI_Comm comm, std::int64_t bytes);
  /// Moves sums on; true when all have arrived.
  bool advance_sums();
  /// Waits for all; their sizes in bytes, in the order in which they were started.
  std::vector<std::int64_t> finish_sums();

  /// Waits for these, and meanwhile moves sums on. The time is booked on what was sent last.
  void wait(std::span<MPI_Request> requests);
  void note_request(int tag, MPI_Request request);
  void note_send(int tag, std::int64_t bytes);
  void note_receive(int tag, std::int64_t bytes);
  void book_since(double start, double& account);

  Spent& spent() { return spent_; }
  /// Of the host, in machines that were measured.
  double speed() const { return speed_; }

private:
  struct Step {
    int peer;
    std::int64_t sent, received;
    bool adds;
  };
  struct Sum {
    MPI_Comm comm;
    int tag;
    std::vector<Step> steps;
    std::size_t at = 0;
    bool begun = false;
    MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  };
  struct UnderWay;
  void pass(double seconds, double& account);
  void begin_step(Sum& sum);
  void wait_moving(std::span<MPI_Request> requests);
  static std::vector<Step> steps_of(int rank, int size, std::int64_t bytes);

  double speed_ = 1, due_ = 0; ///< due: seconds of the measured machine
  Spent spent_;
  std::vector<Sum> sums_;
  std::vector<std::int64_t> sizes_; ///< of all sums that were started
  int last_tag_ = 0, tags_ = 0;
  bool packed_ = false;             ///< what a gather sends, of which each receiver gets the same
  std::set<MPI_Request> of_stages_; ///< under way between stages
  std::int64_t incoming_bytes_ = 0; ///< of receives under way
};

} // namespace pluvia
