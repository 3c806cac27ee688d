// What fails on one rank fails on all, with the same words and exit code.
#include <new>
#include <stdexcept>

#include <gtest/gtest.h>

#include "scratch.hpp"

namespace pluvia {
namespace {

class Together : public ::testing::Test {
protected:
  Communicator world{MPI_COMM_WORLD};
  /// How all ranks fail when the last one does so.
  template <class Body> test::Failure failing(Body&& body) {
    return test::failure_of([&] {
      together(world, [&] {
        if (world.rank() + 1 == world.size()) body();
      });
    });
  }
};

TEST_F(Together, TheErrorOfOneRankIsThatOfAll) {
  const auto failure = failing([] { fail(ExitCode::data, "Nothing here", "why", "Look there."); });
  EXPECT_EQ(failure.code, ExitCode::data);
  EXPECT_EQ(failure.text, "Nothing here (why) Look there.");
  EXPECT_EQ(failing([] { throw std::runtime_error("no"); }).code, ExitCode::failed);
}

TEST_F(Together, MemoryThatIsUsedUpIsCalledSo) {
  const auto failure = failing([] { throw std::bad_alloc(); });
  EXPECT_EQ(failure.code, ExitCode::failed);
  EXPECT_NE(failure.text.find("Memory is used up (a rank "), std::string::npos) << failure.text;
}

TEST_F(Together, NothingIsThrownWhenNobodyFails) {
  EXPECT_EQ(failing([] {}).code, ExitCode::done);
}

} // namespace
} // namespace pluvia
