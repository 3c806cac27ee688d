// ranks: 1 2 3 4
// What is planned for a rank is what the network does: the messages and bytes that it hands to MPI, counted
// by standing between, and the memory that the tape holds between the passes, as the C library counts it. The
// operators that are listed for it are those that a profile of the network books, with their arithmetic.
#include <malloc.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <mpi.h>

#include "pluvia/comm/process_grid.hpp"
#include "pluvia/nn/footprint.hpp"
#include "pluvia/nn/operators.hpp"
#include "pluvia/ops/loss.hpp"

namespace {
struct {
  int messages = 0;
  std::int64_t bytes = 0;
} sent;
} // namespace

// Replaces the library's entry for this program; PMPI_ is the same function by its profiling name.
extern "C" int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
                         MPI_Request* request) {
  int size = 0;
  MPI_Type_size(type, &size);
  sent.messages += 1;
  sent.bytes += static_cast<std::int64_t>(count) * size;
  return PMPI_Isend(data, count, type, to, tag, comm, request);
}

namespace pluvia {
namespace {

constexpr Index inputs = 9, classes = 4, frames = 3;
const std::vector<double> leads{6, 12};

std::int64_t allocated_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<std::int64_t>(info.uordblks + info.hblkhd);
}

struct Case {
  std::string form, global;
  std::vector<std::int64_t> levels;
  Index ny, nx;
  std::int64_t input_merge, skip_radius;
  Edge edge;
  Tape::Keep keep = Tape::Keep::everything;
  int parts = 1; ///< of the frames, where the ranks can be shared out over them
  std::string core = "attention";
  int tensor = 1; ///< ranks that share out channels, where the ranks can be shared out over them
};

/// How often each operator is applied, and its arithmetic forward and backward.
using Key = std::tuple<std::string, Index, Index, Index, Index, Index>;
struct Count {
  int calls = 0;
  double flop = 0, pull_flop = 0;
  bool operator==(const Count&) const = default;
};
template <class Entry> Key key_of(const Entry& entry, std::string_view name, Index inputs) {
  const Shape& s = entry.output;
  return {std::string(name), inputs, s.t, s.y, s.x, s.c};
}

class FootprintOf : public ::testing::TestWithParam<Case> {};

TEST_P(FootprintOf, IsWhatTheNetworkDoes) {
  const Case& c = GetParam();
  ModelSettings settings;
  settings.history = frames;
  settings.channels = {16, 32, 32};
  settings.attention.form = c.form;
  settings.attention.global = c.global;
  settings.attention.levels = c.levels;
  settings.attention.radius = 2;
  settings.attention.window = 4;
  settings.input_merge = c.input_merge;
  settings.skip_radius = c.skip_radius;
  settings.head_init = "random";
  settings.temporal_core = c.core;
  const StUnetPorts ports{inputs, leads, classes};
  const Communicator world(MPI_COMM_WORLD);
  const int levels = levels_of(settings);
  const ProcessGrid grid = make_process_grid(world, 1, 1, std::gcd(c.tensor, world.size()));
  const int parts = std::gcd(c.parts, grid.tiles.size());
  const GridShape shape = choose_grid_shape(c.ny, c.nx, levels, grid.tiles.size() / parts);
  Decomposition tiles(grid.tiles,
                      {Tiling(c.ny, c.nx, levels, shape.rows, shape.cols, c.edge),
                       TimeAxis(parts, frames, static_cast<Index>(leads.size()))},
                      &grid.channels);
  const int rank = grid.tiles.rank();
  const ChannelShare share = tiles.channel_share();
  StUnet net(settings, ports, 1);
  const Footprint planned =
      estimate_footprint(settings, ports, tiles.partition(), rank, c.keep, every_piece, share);

  const Rect tile = tiles.tile(0);
  const Index cells = tile.cells(), own_frames = tiles.frames(frames).size(),
              own_leads = tiles.leads(static_cast<Index>(leads.size())).size();
  // MPI takes memory of its own now and then, and keeps it: the leanest pass is the network's.
  std::int64_t kept = std::numeric_limits<std::int64_t>::max();
  for (int pass = 0; pass < 4; ++pass) { // the first one fills caches of plans
    Profile profile;
    Tape tape(Tape::Mode::record, Precision::f32, c.keep, pass == 0 ? &profile : nullptr,
              {.member = share.member, .members = share.members});
    sent = {};
    const std::int64_t before = allocated_bytes();
    Var logits = net.forward(
        tape, tiles,
        Tape::leaf(Tensor::zeros({1, own_frames, tile.height(), tile.width(), inputs}, net.input_margin())),
        Tape::leaf(Tensor::zeros({1, own_leads, tile.height(), tile.width(), classes})));
    kept = std::min(kept, allocated_bytes() - before);
    MPI_Barrier(MPI_COMM_WORLD); // no rank's next messages are among what another one counts
    EXPECT_EQ(sent.messages, planned.forward.messages);
    EXPECT_EQ(sent.bytes, planned.forward.bytes);

    sent = {};
    const std::vector<std::int8_t> observed(static_cast<std::size_t>(own_leads * cells), 1);
    const std::vector<float> weights(static_cast<std::size_t>(own_leads * tile.height()), 1.0F);
    ordinal_loss(logits, {observed, weights}, tape);
    tape.backward();
    EXPECT_EQ(sent.messages, planned.backward.messages);
    EXPECT_EQ(sent.bytes, planned.backward.bytes);

    if (pass > 0 || c.keep == Tape::Keep::blocks) continue; // blocks are booked twice
    std::map<Key, Count> booked, listed;
    for (const Profile::Row& row : profile.rows())
      booked[key_of(row, row.name, row.inputs)] = {row.calls, row.flop, row.pull_flop};
    for (const Operator& op : list_operators(settings, ports, tiles.partition(), rank, share)) {
      Count& count = listed[key_of(op, op.work.name, op.work.inputs)];
      ++count.calls, count.flop += op.work.flop, count.pull_flop += op.work.pull_flop;
    }
    EXPECT_EQ(booked, listed);
  }
  EXPECT_EQ(world.size() == 1, planned.forward.messages == 0);
  if (kept == 0) GTEST_SKIP() << "this allocator does not say how much it holds";
  EXPECT_NEAR(static_cast<double>(planned.activation_bytes) / static_cast<double>(kept), 1.0, 0.02);
}

INSTANTIATE_TEST_SUITE_P(
    Networks, FootprintOf,
    ::testing::Values(
        Case{"neighbourhood", "none", {-2, -1}, 45, 52, 1, 0, Edge::closed},
        Case{"windowed", "linear", {-1}, 45, 52, 1, 1, Edge::closed},
        Case{"joint", "linear", {0, 2}, 40, 48, 1, 0, Edge::periodic},
        Case{"neighbourhood", "none", {-1}, 96, 96, 2, 2, Edge::periodic},
        Case{"neighbourhood", "linear", {-2, -1}, 45, 52, 1, 1, Edge::closed, Tape::Keep::blocks},
        Case{"joint", "none", {-2, -1}, 40, 48, 1, 1, Edge::periodic, Tape::Keep::everything, 2},
        Case{"neighbourhood", "linear", {-1}, 90, 104, 2, 0, Edge::closed, Tape::Keep::everything, 2},
        Case{"windowed", "softmax", {-1}, 45, 52, 1, 0, Edge::closed, Tape::Keep::everything, 2, "recurrent"},
        Case{"neighbourhood",
             "softmax",
             {-2, -1},
             45,
             52,
             1,
             1,
             Edge::closed,
             Tape::Keep::everything,
             1,
             "attention",
             2},
        Case{"windowed", "linear", {1}, 40, 48, 1, 0, Edge::closed, Tape::Keep::blocks, 2, "recurrent", 2}));

} // namespace
} // namespace pluvia
