// One training step on simulated ranks: runs under smpirun, and prints as JSON what it took.
//   smpirun ... predict CONFIG BENCH.json,... [key=value ...]
// The program's own network, stages, halos, gathers and gradient sums run on every rank, but operators
// advance its clock as they were measured by `pluvia bench` on one rank (stand_ins.cpp), and messages, with
// values that mean nothing, travel over a network that SimGrid simulates. Hosts of 1 Gf are as fast as the
// machine of the measurement.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include <mpi.h>
#include <nlohmann/json.hpp>

#include "clock.hpp"
#include "pluvia/comm/process_grid.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/nn/pipeline.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "pluvia/parallel/parameter_shards.hpp"
#include "stand_ins.hpp"

namespace pluvia {
namespace {

using Json = nlohmann::ordered_json;

std::string read(const std::string& name) {
  std::ifstream file(name);
  if (!file) fail(ExitCode::usage, name + " cannot be read", "there is no such file", "Check its name.");
  return {std::istreambuf_iterator<char>(file), {}};
}

StUnetPorts ports_of(const Settings& s) {
  return {s.bench.inputs, s.target.leads_hours, static_cast<Index>(s.target.thresholds_mm.size()) + 1};
}

/// A step of one rank, as bench/network_timing takes it.
class Rank {
public:
  Rank(const Communicator& world, const Settings& s, StUnet& network)
      : world_(world), settings_(s), ports_(ports_of(s)), network_(network),
        grid_(make_process_grid(world, static_cast<int>(s.parallel.replicas),
                                static_cast<int>(s.parallel.stages), static_cast<int>(s.parallel.tensor))),
        tiles_(grid_.tiles, partition(s, grid_.tiles.size()), &grid_.channels),
        pipeline_(network, ports_, tiles_, grid_.stages,
                  cut_stages(s.model, ports_, tiles_.tiling(), grid_.stages.size())) {}

  const Tiling& tiling() const { return tiles_.tiling(); }
  HaloCost sent() const {
    HaloCost all;
    for (const auto& [layer, cost] : tiles_.halo_costs())
      all.bytes += cost.bytes, all.messages += cost.messages;
    return all;
  }

  Spent step() {
    RankClock& clock = RankClock::mine();
    const std::vector<Parameter*> parameters = network_.parameters().all();
    const Rect tile = tiles_.tile(0);
    const auto leads = static_cast<Index>(ports_.lead_hours.size());
    const ChannelShare share = tiles_.channel_share();
    Profile profile;
    Pipeline::Batch batch{.size = static_cast<int>(settings_.bench.samples)};
    batch.tape = [&] {
      return std::make_unique<Tape>(
          Tape::Mode::record, Precision::f32,
          settings_.train.keep == "blocks" ? Tape::Keep::blocks : Tape::Keep::everything, &profile,
          GradientBlocks{.height = tile.height(),
                         .width = tile.width(),
                         .member = share.member,
                         .members = share.members});
    };
    batch.load = [&](int) {
      return Pipeline::Sample{
          Tape::leaf(Tensor(
              {1, tiles_.frames(settings_.model.history).size(), tile.height(), tile.width(), ports_.inputs},
              network_.input_margin())),
          Tape::leaf(Tensor({1, tiles_.leads(leads).size(), tile.height(), tile.width(), ports_.classes}))};
    };
    batch.score = [&](int, const Var& logits, const Tape&) {
      clock.work(measured().loss(static_cast<double>(tile.cells())) *
                 static_cast<double>(logits->value.shape().t) / static_cast<double>(leads));
      logits->grad = Tensor(logits->value.shape(), logits->grad_margin);
    };
    ParameterShards shards(world_, parameters); // which trainings make once
    world_.barrier();
    clock.catch_up();
    clock.spent() = {};
    const double start = MPI_Wtime();
    GradientSync sync(world_, parameters);
    batch.whole = [&](auto whole) { sync.complete(whole); };
    pipeline_.run(batch);
    sync.finish();
    // The norm of all gradients, and the update of this rank's own weights.
    const auto bytes = static_cast<double>(network_.parameters().size()) * sizeof(float);
    const double norm = std::min(measured().optimiser(), bytes / measured().bytes_per_second());
    optimiser_ = norm + (measured().optimiser() - norm) * static_cast<double>(shards.size()) /
                            static_cast<double>(network_.parameters().size());
    clock.work(optimiser_);
    shards.gather();
    clock.catch_up();
    seconds_ = MPI_Wtime() - start;
    return clock.spent();
  }
  double seconds() const { return seconds_; }
  double optimiser() const { return optimiser_ / RankClock::mine().speed(); }

private:
  static Partition partition(const Settings& s, int ranks) {
    const int parts = static_cast<int>(s.parallel.time), levels = levels_of(s.model);
    if (ranks % parts != 0)
      fail(ExitCode::usage, std::to_string(ranks) + " ranks cannot be shared out over parallel.time", "",
           "Simulate a multiple of parallel.time.");
    const GridShape shape = choose_grid_shape(s.bench.ny, s.bench.nx, levels, ranks / parts);
    return {Tiling(s.bench.ny, s.bench.nx, levels, shape.rows, shape.cols),
            TimeAxis(parts, s.model.history, static_cast<Index>(s.target.leads_hours.size()))};
  }

  const Communicator& world_;
  const Settings& settings_;
  StUnetPorts ports_;
  StUnet& network_;
  ProcessGrid grid_;
  Decomposition tiles_;
  Pipeline pipeline_;
  double seconds_ = 0, optimiser_ = 0;
};

void run(int argc, char** argv) {
  if (argc < 3)
    fail(ExitCode::usage, "Arguments are missing", "", "predict CONFIG BENCH.json,... [key=value ...]");
  const Communicator world(MPI_COMM_WORLD);
  // One reading, and one network, for all.
  static std::optional<Settings> settings;
  static std::optional<Measured> timings;
  static std::optional<StUnet> network;
  if (!settings) settings = parse_settings(read(argv[1]), argv[1], {argv + 3, argv + argc});
  const Settings& s = *settings;
  if (s.train.exact)
    fail(ExitCode::usage, "train.exact is set", "the predictor knows sums in f32 alone",
         "Leave it as it is by default.");
  require_stages(s.model, static_cast<int>(s.parallel.stages), s.bench.samples, "bench.samples");
  require_shares(s.model, static_cast<int>(s.parallel.tensor));
  if (!timings) {
    timings.emplace(argv[2]);
    set_measured(*timings);
    RankClock::set_bytes_per_second(timings->bytes_per_second());
  }
  if (!network) network.emplace(s.model, ports_of(s), 1);

  Rank rank(world, s, *network);
  const Spent spent = rank.step();

  double means[] = {spent.operators, spent.copies, spent.halos, spent.gathers, spent.stages, spent.sums},
         most[] = {rank.seconds(), spent.operators}, least[] = {spent.sums};
  world.all_reduce(std::span<double>(means), Reduce::sum);
  world.all_reduce(std::span<double>(most), Reduce::max);
  world.all_reduce(std::span<double>(least), Reduce::min);
  for (double& mean : means) mean /= world.size();
  const HaloCost sent = rank.sent();
  const Json out{{"ranks", world.size()},
                 {"ny", s.bench.ny},
                 {"nx", s.bench.nx},
                 {"rows", rank.tiling().rows()},
                 {"cols", rank.tiling().cols()},
                 {"step_s", most[0]},
                 {"operators_s", means[0]},
                 {"optimiser_s", rank.optimiser()}, // one of them
                 {"operators_most_s", most[1]},
                 {"copies_s", means[1]},
                 {"halo_wait_s", means[2]},
                 {"gather_wait_s", means[3]},
                 {"stage_wait_s", means[4]},
                 {"sums_least_s", least[0]},
                 {"halo", {{"bytes_sent", sent.bytes}, {"messages_sent", sent.messages}}}};
  if (world.rank() == 0) std::printf("%s\n", out.dump().c_str());
}

} // namespace
} // namespace pluvia

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  try {
    pluvia::run(argc, argv);
  } catch (const pluvia::Error& error) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) std::fprintf(stderr, "%s\n", error.what());
    std::exit(static_cast<int>(error.code()));
  }
  MPI_Finalize();
  return 0;
}
