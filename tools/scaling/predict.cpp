// One training step on simulated ranks: runs under smpirun, and prints as JSON what it took.
//   smpirun ... predict CONFIG BENCH.json,... [key=value ...]
// Every rank goes through the operators of the network, forward and backward. Their times advance its clock
// as they were measured by `pluvia bench` on one rank, on grids of several sizes; halos and the gradient's
// sum are really exchanged, with values that mean nothing, over a network that SimGrid simulates. Hosts of 1
// Gf are as fast as the machine of the measurement.
#include <mpi.h>
#include <simgrid/host.h>
#include <smpi/smpi.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/order_free_sums.hpp"
#include "pluvia/nn/operators.hpp"

namespace pluvia {
namespace {

using Json = nlohmann::ordered_json;
constexpr double flop_of_a_second = 1e9;

std::string read(const std::string& name) {
  std::ifstream file(name);
  if (!file) fail(ExitCode::usage, name + " cannot be read", "there is no such file", "Check its name.");
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Seconds {
  double forward = 0, backward = 0;
};

/// Seconds of something at some amounts of work, the least of what was measured: other work on the machine
/// only adds. In between the rate is interpolated over the logarithm of the amount, and beyond it stays.
class Curve {
public:
  void add(double amount, Seconds s) {
    const auto [point, fresh] = points_.try_emplace(amount, s);
    point->second.forward = std::min(point->second.forward, s.forward);
    point->second.backward = std::min(point->second.backward, s.backward);
  }
  Seconds at(double amount) const {
    const auto above = points_.lower_bound(amount);
    const auto high = above == points_.end() ? std::prev(above) : above;
    const auto low = above == points_.begin() ? high : std::prev(above);
    const double span = std::log(high->first / low->first),
                 share = span > 0 ? std::clamp(std::log(amount / low->first) / span, 0.0, 1.0) : 1.0;
    const double a = amount / low->first, b = amount / high->first;
    return {std::lerp(a * low->second.forward, b * high->second.forward, share),
            std::lerp(a * low->second.backward, b * high->second.backward, share)};
  }

private:
  std::map<double, Seconds> points_;
};

/// How fast one rank of the measured machine is.
class Measured {
public:
  explicit Measured(const std::string& files) {
    std::istringstream names(files);
    for (std::string name; std::getline(names, name, ',');) {
      const Json bench = Json::parse(read(name));
      if (bench["ranks"] != 1)
        fail(ExitCode::usage, name + " was measured on several ranks", "their operators hold waiting",
             "Run pluvia bench on one.");
      for (const Json& row : bench["operators"]) {
        const auto calls = row["calls"].get<double>();
        const std::vector<Index> s = row["output_t_y_x_c"];
        curves_[{row["operator"], row["c_in"], s[0], s[3]}].add(
            amount(row["flop"].get<double>() / calls, s[1] * s[2]),
            {row["forward_s"].get<double>() / calls, row["backward_s"].get<double>() / calls});
      }
      const double cells = bench["grid_ny_nx"][0].get<double>() * bench["grid_ny_nx"][1].get<double>();
      loss_.add(cells, {bench["phases_s"]["loss"], 0});
      optimiser_.add(1, {bench["phases_s"]["optimiser"], 0});
      bytes_per_second_ =
          std::max<double>(bytes_per_second_, bench["timings"]["memory, a = b + s c"]["bytes_per_s"]);
      parameters_ = bench["parameters"];
    }
  }
  Seconds of(const Operator& op) const {
    const Shape& s = op.output;
    const auto found = curves_.find({std::string(op.work.name), op.work.inputs, s.t, s.c});
    if (found == curves_.end())
      fail(ExitCode::usage,
           fmt::format("No {} of {} to {} channels was timed", op.work.name, op.work.inputs, s.c),
           "the measurements are of another network", "Run pluvia bench with the same configuration.");
    return found->second.at(amount(op.work.flop, s.y * s.x));
  }
  double loss(Index cells) const { return loss_.at(static_cast<double>(cells)).forward; }
  double optimiser() const { return optimiser_.at(1).forward; }
  std::size_t parameters() const { return parameters_; }
  /// Of values that are read in one place and written in another.
  double copy(std::int64_t bytes) const { return 2 * static_cast<double>(bytes) / bytes_per_second_; }

private:
  /// Arithmetic where there is any, which knows of windows that the domain's edge cuts off.
  static double amount(double flop, Index cells) { return flop > 0 ? flop : static_cast<double>(cells); }
  std::map<std::tuple<std::string, Index, Index, Index>, Curve> curves_;
  Curve loss_, optimiser_;
  double bytes_per_second_ = 0;
  std::size_t parameters_ = 0;
};

// All simulated ranks live in one process and nobody reads what they write: they share one array of each
// kind, which lets a thousand of them fit into memory. (smpirun -no-privatize leaves globals to all.)

Tensor& common_tensor(const Shape& s, const Margin& m) {
  using Key = std::tuple<Index, Index, Index, Index, int, int, int, int, int, int>;
  static std::map<Key, Tensor> tensors;
  return tensors.try_emplace({s.t, s.y, s.x, s.c, m.t_lo, m.t_hi, m.y_lo, m.y_hi, m.x_lo, m.x_hi}, s, m)
      .first->second;
}

template <class Value> std::vector<Value>& common_array(std::size_t n, int which) {
  static std::vector<Value> arrays[2];
  if (arrays[which].size() < n) arrays[which].resize(n);
  return arrays[which];
}

/// Seconds of one rank in one step.
struct Spent {
  double operators = 0, copies = 0, halos = 0, sums = 0, step = 0;
};

class Rank {
public:
  Rank(const Communicator& comm, const Measured& measured, const Partition& partition,
       std::vector<Operator> list)
      : comm_(comm), measured_(measured), partition_(partition), list_(std::move(list)) {}
  const HaloCost& sent() const { return sent_; }

  Spent step() {
    spent_ = {};
    comm_.barrier();
    const double start = MPI_Wtime();
    const Index cells = partition_.tile(comm_.rank(), 0).cells();
    for (const Operator& op : list_) {
      exchange(op, op.forward, 0);
      work(measured_.of(op).forward);
      sum_domain(op);
    }
    work(measured_.loss(cells));
    for (auto op = list_.rbegin(); op != list_.rend(); ++op) {
      const double seconds = measured_.of(*op).backward, behind = op->behind * seconds;
      exchange(*op, op->backward, behind);
      work(seconds - behind);
      sum_domain(*op);
    }
    sum_gradients();
    work(measured_.optimiser());
    catch_up();
    spent_.step = MPI_Wtime() - start;
    return spent_;
  }

private:
  // Work is put off until somebody may be waiting: SimGrid slows down with every activity that a rank has
  // begun.
  void pass(double seconds, double& account) {
    due_ += seconds;
    account += seconds / speed_;
  }
  void work(double seconds) { pass(seconds, spent_.operators); }
  void catch_up() {
    if (due_ > 0) smpi_execute_flops(due_ * flop_of_a_second);
    due_ = 0;
  }

  /// Starts an exchange, works for `behind` seconds and waits for it.
  void exchange(const Operator& op, const Operator::Halo& halo, double behind) {
    const std::int64_t sent = halo.traffic(comm_.rank()).bytes;
    if (halo.channels.empty() || comm_.size() == 1) return work(behind);
    std::vector<Tensor*> tensors;
    std::int64_t received = 0;
    for (const Index c : halo.channels) {
      const Shape s{1, halo.frames, op.output.y, op.output.x, c};
      tensors.push_back(&common_tensor(s, halo.plan.margin));
      for (const HaloPlan::Piece& piece : halo.plan.receives)
        if (piece.peer != comm_.rank())
          received += piece.cells.cells() * piece.frames_of(halo.frames).size() * c *
                      static_cast<Index>(sizeof(float));
    }
    pass(measured_.copy(sent), spent_.copies);
    catch_up();
    HaloExchange under_way(halo.plan, comm_, tensors, sent_);
    work(behind);
    catch_up();
    const double start = MPI_Wtime();
    under_way.finish();
    spent_.halos += MPI_Wtime() - start;
    pass(measured_.copy(received), spent_.copies);
  }

  /// As Communicator::all_reduce does, but from one shared array into another: in place every rank would need
  /// its own.
  template <class Value> void sum(std::size_t n, MPI_Datatype type) {
    if (comm_.size() == 1) return;
    catch_up();
    const double start = MPI_Wtime();
    mpi_check(MPI_Allreduce(common_array<Value>(n, 0).data(), common_array<Value>(n, 1).data(), static_cast<int>(n), type,
                            MPI_SUM, comm_.raw()),
              "MPI_Allreduce");
    spent_.sums += MPI_Wtime() - start;
    // The additions: two values are read and one written for each.
    pass(1.5 * measured_.copy(static_cast<std::int64_t>(n * sizeof(Value))), spent_.sums);
  }
  void sum_domain(const Operator& op) {
    if (op.domain_sums == 0) return;
    OrderFreeSums sums(static_cast<std::size_t>(op.domain_sums));
    sum<std::int64_t>(sums.limbs().size(), MPI_INT64_T);
  }
  void sum_gradients() {
    const std::size_t n = measured_.parameters();
    if (comm_.size() > 1)
      pass(2 * measured_.copy(static_cast<std::int64_t>(n * sizeof(float))), spent_.copies);
    sum<float>(n, MPI_FLOAT);
  }

  const Communicator& comm_;
  const Measured& measured_;
  const Partition& partition_;
  std::vector<Operator> list_;
  HaloCost sent_;
  Spent spent_;
  const double speed_ = sg_host_get_speed(sg_host_self()) / flop_of_a_second; ///< of this host
  double due_ = 0; ///< seconds of work, on the machine of the measurement
};

void run(int argc, char** argv) {
  if (argc < 3)
    fail(ExitCode::usage, "Arguments are missing", "", "predict CONFIG BENCH.json,... [key=value ...]");
  const Communicator world(MPI_COMM_WORLD);
  // One reading for all.
  static std::optional<Settings> settings;
  static std::optional<Measured> measured;
  if (!settings) settings = parse_settings(read(argv[1]), argv[1], {argv + 3, argv + argc});
  if (!measured) measured.emplace(argv[2]);
  const Settings& s = *settings;
  if (s.parallel.tensor > 1 || s.parallel.time > 1 || s.parallel.stages > 1 || s.parallel.replicas > 1 ||
      s.train.keep != "everything" || s.train.exact)
    fail(ExitCode::usage,
         "parallel.tensor, parallel.time, parallel.stages, parallel.replicas, train.keep or train.exact is "
         "set",
         "the predictor knows tiles alone", "Leave them as they are by default.");
  const int levels = levels_of(s.model);
  const GridShape shape = choose_grid_shape(s.bench.ny, s.bench.nx, levels, world.size());
  const Partition partition = Tiling(s.bench.ny, s.bench.nx, levels, shape.rows, shape.cols);
  const StUnetPorts ports{s.bench.inputs, s.target.leads_hours,
                          static_cast<Index>(s.target.thresholds_mm.size()) + 1};

  Rank rank(world, *measured, partition, list_operators(s.model, ports, partition, world.rank()));
  const Spent spent = rank.step();

  double means[] = {spent.operators, spent.copies, spent.halos, spent.sums},
         most[] = {spent.step, spent.operators}, least[] = {spent.sums};
  world.all_reduce(std::span<double>(means), Reduce::sum);
  world.all_reduce(std::span<double>(most), Reduce::max);
  world.all_reduce(std::span<double>(least), Reduce::min);
  for (double& mean : means) mean /= world.size();
  const Json out{{"ranks", world.size()},
                 {"ny", s.bench.ny},
                 {"nx", s.bench.nx},
                 {"rows", shape.rows},
                 {"cols", shape.cols},
                 {"step_s", most[0]},
                 {"operators_s", means[0]},
                 {"operators_most_s", most[1]},
                 {"copies_s", means[1]},
                 {"halo_wait_s", means[2]},
                 {"sums_s", means[3]},
                 {"sums_least_s", least[0]},
                 {"halo", {{"bytes_sent", rank.sent().bytes}, {"messages_sent", rank.sent().messages}}}};
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
