// One main for all tests: every rank runs the same tests in the same order, rank 0 reports, and a failure on
// any rank fails the run.
#include <cstdlib>

#include <gtest/gtest.h>
#include <mpi.h>

#include "pluvia/comm/devices.hpp"

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  ::testing::InitGoogleTest(&argc, argv);
  // As the program does: where there are several GPUs, ranks have one each, and messages go from one to the
  // other.
  if (pluvia::accelerator::kind() == pluvia::accelerator::Kind::cuda)
    pluvia::take_device(pluvia::Communicator(MPI_COMM_WORLD), "auto");
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    class OnlyFailures : public ::testing::EmptyTestEventListener {
      void OnTestPartResult(const ::testing::TestPartResult& result) override {
        if (result.failed())
          printf("%s:%d: %s\n", result.file_name(), result.line_number(), result.summary());
      }
    };
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new OnlyFailures);
  }
  int failed = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed;
}
