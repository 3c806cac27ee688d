#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "pluvia/bench/ceilings.hpp"
#include "pluvia/bench/memory_use.hpp"
#include "pluvia/bench/network_timing.hpp"
#include "pluvia/bench/scaling_ladder.hpp"
#include "pluvia/bench/stage_timing.hpp"
#include "pluvia/comm/devices.hpp"
#include "pluvia/io/durable.hpp"
#include "pluvia/io/time.hpp"
#include "pluvia/nn/operators.hpp"
#include "pluvia/ops/conv3d.hpp"
#include "pluvia/train/precision.hpp"

namespace pluvia::commands {

namespace {

using Json = nlohmann::ordered_json;
constexpr double giga = 1e9, mib = 1024.0 * 1024.0;
constexpr int chart_width = 100;

/// The value of a key of /proc/cpuinfo, of the first processor.
std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

Json describe(const Taken& taken) {
  return {{"tensors", taken.tensors}, {"tensor_bytes", taken.bytes}, {"page_faults", taken.pages}};
}

std::string describe(const char* what, const Taken& taken) {
  return fmt::format("  {:<20} {:>6.0f} tensors of {:>9.1f} MiB in all, {:>7.0f} page faults\n", what,
                     taken.tensors, taken.bytes / mib, taken.pages);
}

double total(const Communicator& comm, double value) {
  comm.all_reduce(std::span(&value, 1), Reduce::sum);
  return value;
}

/// Of all ranks; convolutions and linear layers are the model's own arithmetic. What is computed twice to
/// save memory counts once, and so does what several ranks compute alike. In a step each of the stages that
/// forecast by themselves does its part of every sample.
struct Arithmetic {
  double forward = 0, step = 0;
};
Arithmetic arithmetic(const Communicator& comm, const Trainee& trainee, const Settings& s) {
  Arithmetic out;
  const Decomposition& tiles = trainee.tiles;
  if (!trainee.grid.counts()) return {total(comm, 0), total(comm, 0)};
  const Span own = trainee.pipeline.stages().pieces[static_cast<std::size_t>(trainee.grid.stage())];
  for (const Operator& op : list_operators(s.model, trainee.ports, tiles.partition(), tiles.comm().rank())) {
    if (op.work.name != "conv3d" && op.work.name != "linear") continue;
    out.forward += op.work.flop;
    if (op.piece >= own.from && op.piece < own.to)
      out.step += (op.work.flop + op.work.pull_flop) * static_cast<double>(s.bench.samples);
  }
  return {total(comm, out.forward), total(comm, out.step)};
}

/// One line per operator and shape of this rank: time, share, arithmetic against the ceiling of its threads.
std::string operator_table(Profile& profile, int steps, double ceiling, Json& json) {
  std::string out = fmt::format("{:<18} {:>6} {:<22} {:>5}  {:>9} {:>9}  {:>6}  {:>9} {:>7} {:>7}\n",
                                "operator", "C in", "output T x Y x X x C", "calls", "fwd ms", "bwd ms",
                                "share", "GFLOP/s", "fwd/cl.", "bwd/cl.");
  std::vector<Profile::Row> rows = profile.rows();
  double all = 0;
  for (const auto& row : rows) all += row.forward_seconds + row.pull_seconds;
  std::ranges::sort(rows, std::greater{}, [](const auto& r) { return r.forward_seconds + r.pull_seconds; });
  for (const auto& row : rows) {
    const double seconds = row.forward_seconds + row.pull_seconds, flop = row.flop + row.pull_flop;
    const Shape& s = row.output;
    out +=
        fmt::format("{:<18} {:>6} {:<22} {:>5}  {:>9.3f} {:>9.3f}  {:>5.1f}%", row.name, row.inputs,
                    fmt::format("{} x {} x {} x {}", s.t, s.y, s.x, s.c), row.calls / steps,
                    1e3 * row.forward_seconds / steps, 1e3 * row.pull_seconds / steps, 100 * seconds / all);
    if (flop > 0)
      out += fmt::format("  {:>9.1f} {:>7.2f} {:>7.2f}", flop / seconds / giga,
                         row.flop / row.forward_seconds / ceiling,
                         row.pull_seconds > 0 ? row.pull_flop / row.pull_seconds / ceiling : 0.0);
    out += "\n";
    json.push_back({{"operator", row.name},
                    {"c_in", row.inputs},
                    {"output_t_y_x_c", {s.t, s.y, s.x, s.c}},
                    {"calls", row.calls / steps},
                    {"forward_s", row.forward_seconds / steps},
                    {"backward_s", row.pull_seconds / steps},
                    {"flop", row.flop / steps},
                    {"backward_flop", row.pull_flop / steps}});
  }
  return out;
}

/// What the machine can do: products in f32 first, memory last.
std::vector<Contender> ceilings(const Communicator& world, Device device) {
  if (device == Device::gpu)
    return {accelerator_product_ceiling(world, Precision::f32),
            accelerator_product_ceiling(world, Precision::bf16), accelerator_copy_ceiling(world)};
  std::vector<Contender> out{convolution_ceiling(world, Precision::f32)};
  if (has_native_bf16()) out.push_back(convolution_ceiling(world, Precision::bf16));
  out.push_back(memory_ceiling(world));
  return out;
}

/// What was timed, and how many bytes or floating-point operations a second that is.
struct Timed {
  std::string name;
  Timing took;
  double rate;
  bool bytes;
};

/// The machine, its ceiling in f32 first; then steps, whose phases come out, too, and forecasts.
std::vector<Timed> time_all(const Communicator& world, const Settings& s, NetworkTiming& network,
                            const Arithmetic& flop, std::vector<StepPhases>& phases) {
  const Trainee& trainee = network.trainee();
  std::vector<Contender> contenders = ceilings(world, trainee.device);
  const std::size_t machine = contenders.size(); // the last of them counts bytes
  const std::string precision = name_of(trainee.precision), step = "training step " + precision;
  if (s.bench.training)
    contenders.push_back(
        {step + (s.train.exact ? " exact" : ""), [&] { phases.push_back(network.step()); }, flop.step});
  if (s.bench.training && trainee.obstacle.empty()) {
    for (int i = 0; i <= StepRecorder::warm_up; ++i) network.recorded_step();
    contenders.push_back({step + " replayed", [&] { network.recorded_step(); }, flop.step});
  }
  contenders.push_back({"forecast " + precision, [&] { network.forecast(); }, flop.forward});
  // What the same bits on every process grid cost: a step that sums as it likes, beside.
  Settings fast = s;
  fast.train.exact = false;
  std::optional<NetworkTiming> inexact;
  if (s.bench.training && s.train.exact) {
    inexact.emplace(world, fast, trainee.precision, trainee.device, s.bench.ny, s.bench.nx);
    contenders.push_back({step, [&] { inexact->step(); }, flop.step});
  }
  const std::vector<Timing> timings = time_in_turn(world, contenders, static_cast<int>(s.bench.rounds));
  if (s.bench.training) phases.erase(phases.begin()); // the round that was thrown away
  std::vector<Timed> out;
  for (std::size_t i = 0; i < timings.size(); ++i)
    out.push_back(
        {contenders[i].name, timings[i], contenders[i].amount / timings[i].median(), i + 1 == machine});
  return out;
}

std::string timing_table(const std::vector<Timed>& timed, Json& json) {
  std::string out = fmt::format("{:<26} {:>10} {:>10} {:>10}  {:>22}  {}\n", "in turn, one after another",
                                "median s", "min s", "max s", "rate", "of the f32 ceiling");
  for (const auto& [name, t, rate, bytes] : timed) {
    out += fmt::format("{:<26} {:>10.4f} {:>10.4f} {:>10.4f}  {:>10.1f} {:<11}  {}\n", name, t.median(),
                       t.least(), t.most(), rate / giga, bytes ? "GB/s" : "GFLOP/s",
                       bytes ? "" : fmt::format("{:.2f}", rate / timed[0].rate));
    json[name] = {{"median_s", t.median()},
                  {"min_s", t.least()},
                  {"max_s", t.most()},
                  {"runs", t.seconds.size()},
                  {bytes ? "bytes_per_s" : "flop_per_s", rate}};
  }
  return out;
}

/// Of an exact step, the first of all, beside the last one, which is not.
std::string cost_of_exactness(const std::vector<Timed>& timed, Json& json) {
  const auto exact = std::ranges::find_if(timed, &Timed::bytes) + 1; // after the machine
  const double cost = exact->took.median() / timed.back().took.median();
  json = cost;
  return fmt::format("exact training takes {:.2f} times as long as training that sums as it likes\n", cost);
}

/// What the stages of the first replica and its first tile did in a step, drawn as the last one went.
/// Collective over the line of stages.
std::string stage_table(const Communicator& line, const std::vector<StepPhases>& steps, std::int64_t samples,
                        Json& json) {
  std::vector<std::vector<StageTimeline>> all;
  for (const StepPhases& step : steps) all.push_back(gather(line, step.timeline));
  const StageReport report = summarise(all);
  std::string out = fmt::format("{:<6} {:>12} {:>14} {:>15} {:>16} {:>10}\n", "stage", "forward s",
                                "to inputs s", "to weights s", "other stages s", "rest s");
  for (std::size_t i = 0; i < report.stages.size(); ++i) {
    const StageSeconds& t = report.stages[i];
    out += fmt::format("{:<6} {:>12.4f} {:>14.4f} {:>15.4f} {:>16.4f} {:>10.4f}\n", i, t.passes.forward,
                       t.passes.backward_inputs, t.passes.backward_weights, t.receiving, t.rest);
    json["stages"].push_back({{"forward_s", t.passes.forward},
                              {"backward_inputs_s", t.passes.backward_inputs},
                              {"backward_weights_s", t.passes.backward_weights},
                              {"waiting_s", t.receiving},
                              {"rest_s", t.rest}});
  }
  json["idle_share"] = report.idle;
  json["idle_share_of_schedule"] = report.idle_of_schedule;
  const double n = static_cast<double>(report.stages.size()), m = static_cast<double>(samples);
  return out + fmt::format(
                   "idle: {:.1f}% of the stages' time; {:.1f}% if every pass took its mean time and messages "
                   "none; {:.1f}% if all passes took the same\n{}\n",
                   100 * report.idle, 100 * report.idle_of_schedule, 100 * (n - 1) / (3 * m + n - 1),
                   draw(all.back(), chart_width));
}

/// What the halos of a step cost, layer by layer: medians over steps, each of the slowest rank.
std::string halo_table(const Communicator& comm, const std::vector<StepPhases>& phases, Json& json) {
  // Ranks without neighbours book nothing for a layer that others book.
  std::string names;
  for (const auto& [layer, cost] : phases.back().layers)
    names += fmt::format("{}|{}|{}\n", layer.name, layer.level, layer.pass == Layer::Pass::backward);
  std::set<std::string> all;
  for (const std::string& of_rank : comm.all_gather(names))
    for (std::size_t at = 0, end = 0; (end = of_rank.find('\n', at)) != std::string::npos; at = end + 1)
      all.insert(of_rank.substr(at, end - at));
  std::string out = fmt::format("{:<22} {:>5}  {:<8}  {:>10} {:>10} {:>10}\n", "halos of a step", "level",
                                "pass", "waiting ms", "copies ms", "MiB sent");
  for (const std::string& key : all) {
    Timing wait, pack;
    double bytes = 0;
    for (const StepPhases& p : phases)
      for (const auto& [layer, cost] : p.layers)
        if (key == fmt::format("{}|{}|{}", layer.name, layer.level, layer.pass == Layer::Pass::backward)) {
          wait.seconds.push_back(cost.wait_seconds), pack.seconds.push_back(cost.pack_seconds);
          bytes = static_cast<double>(cost.bytes);
        }
    const bool here = !wait.seconds.empty();
    const double waiting = largest(comm, here ? wait.median() : 0),
                 copies = largest(comm, here ? pack.median() : 0);
    bytes = largest(comm, bytes);
    const std::size_t first = key.find('|'), second = key.rfind('|');
    const std::string name = key.substr(0, first), level = key.substr(first + 1, second - first - 1),
                      pass = key.substr(second + 1) == "true" ? "backward" : "forward";
    out += fmt::format("{:<22} {:>5}  {:<8}  {:>10.3f} {:>10.3f} {:>10.2f}\n", name,
                       level == "-1" ? "any" : level, pass, 1e3 * waiting, 1e3 * copies, bytes / mib);
    json.push_back({{"operator", name},
                    {"level", std::stoi(level)},
                    {"pass", pass},
                    {"wait_s", waiting},
                    {"copy_s", copies},
                    {"bytes_sent", bytes}});
  }
  return out;
}

/// The phases of steps, how far sums of gradients are hidden, and halos: medians, each of the slowest rank.
std::string phase_table(const Communicator& comm, const std::vector<StepPhases>& phases, Json& json) {
  const auto phase = [&](auto&& member) {
    Timing t;
    for (const StepPhases& p : phases) t.seconds.push_back(member(p));
    return largest(comm, t.median());
  };
  const std::vector<std::pair<const char*, double>> parts{
      {"forward", phase([](const StepPhases& p) { return p.forward; })},
      {"loss", phase([](const StepPhases& p) { return p.loss; })},
      {"backward", phase([](const StepPhases& p) { return p.backward; })},
      {"other stages", phase([](const StepPhases& p) { return p.stages; })},
      {"reduction", phase([](const StepPhases& p) { return p.reduction; })},
      {"optimiser", phase([](const StepPhases& p) { return p.optimiser; })},
      {"of it halo copies", phase([](const StepPhases& p) { return p.halo.pack_seconds; })},
      {"of it halo waiting", phase([](const StepPhases& p) { return p.halo.wait_seconds; })}};
  std::string out = "\nphase of a step (slowest rank)\n";
  for (const auto& [name, seconds] : parts) {
    out += fmt::format("  {:<20} {:>10.4f} s\n", name, seconds);
    json["phases_s"][name] = seconds;
  }
  // Of all ranks the least favourable.
  const double exposed = phase([](const StepPhases& p) { return p.reduction / p.total(); });
  const double hidden = 1 - phase([](const StepPhases& p) {
                          return p.hidden > 0 ? p.reduction / (p.hidden + p.reduction) : 1;
                        });
  json["reduction"] = {{"exposed_of_step", exposed}, {"hidden", hidden}};
  if (comm.size() > 1)
    out += fmt::format("  sums of gradients: {:.1f}% of their time hidden behind backward, the rest is "
                       "{:.1f}% of the step\n",
                       100 * hidden, 100 * exposed);
  const HaloCost& halo = phases.back().halo;
  json["halo"] = {{"bytes_sent", halo.bytes}, {"messages_sent", halo.messages}};
  out += fmt::format("  halos sent by rank 0: {:.2f} MiB in {} messages\n",
                     static_cast<double>(halo.bytes) / mib, halo.messages);
  if (comm.size() > 1) out += fmt::format("\n{}", halo_table(comm, phases, json["halo_layers"]));
  return out;
}

/// What network and runs hold in memory, and what runs take.
std::string memory_table(const MemoryUse& m, const Taken& by_forecast, const std::optional<Taken>& by_step,
                         Json& json) {
  std::string out = "\nmemory      ";
  if (by_step)
    out += fmt::format(
        "a step holds {:.1f} MiB more than the network at rest, {:.1f} MiB in all; activations to "
        "keep {:.1f} MiB: {:.2f} times; ",
        m.grown / mib, m.held / mib, m.activations / mib, m.grown / m.activations);
  out += fmt::format("a forecast holds {:.1f} MiB more than the network at rest, {:.1f} MiB in all\n",
                     m.forecast_grown / mib, m.forecast_held / mib);
  if (by_step)
    out += fmt::format(
               "  weights and gradients {:.1f} MiB each on every rank, the optimiser's state {:.1f} MiB on a "
               "rank, which has a share of it\n",
               m.weights / mib, m.optimiser / mib) +
           describe("a step takes", *by_step);
  out += describe("a forecast takes", by_forecast) + "\n";
  json["taken"]["forecast"] = describe(by_forecast);
  if (by_step) json["taken"]["step"] = describe(*by_step);
  json["memory_bytes"] = {{"peak", m.held},
                          {"peak_of_step", m.grown},
                          {"peak_of_forecast", m.forecast_grown},
                          {"peak_with_forecast", m.forecast_held},
                          {"activations_to_keep", m.activations},
                          {"optimiser", m.optimiser}};
  return out;
}

std::string time_messages(const Communicator& world, Json& json) {
  const MessageCeiling messages = message_ceiling(world);
  json = {{"latency_s", messages.latency_seconds}, {"bytes_per_s", messages.bytes_per_second}};
  return fmt::format("\nmessages    {:.2f} us, {:.2f} GB/s between ranks 0 and 1\n",
                     1e6 * messages.latency_seconds, messages.bytes_per_second / giga);
}

std::string scaling_table(const std::vector<Rung>& rungs, Json& json) {
  std::string out =
      fmt::format("{:<7} {:>5} {:>5}  {:>13}  {:>9} {:>9} {:>9}  {:>10}  {:>9}\n", "scaling", "ranks",
                  "parts", "grid", "median s", "min s", "max s", "efficiency", "halo wait");
  for (const Rung& r : rungs) {
    const char* kind = r.strong ? "strong" : "weak";
    out += fmt::format("{:<7} {:>5} {:>5}  {:>13}  {:>9.4f} {:>9.4f} {:>9.4f}  {:>9.1f}%  {:>8.1f}%\n", kind,
                       r.ranks, r.parts, fmt::format("{} x {}", r.ny, r.nx), r.median_s, r.min_s, r.max_s,
                       100 * r.efficiency, 100 * r.halo_wait_share);
    json.push_back({{"scaling", kind},
                    {"ranks", r.ranks},
                    {"parts_of_frames", r.parts},
                    {"ny", r.ny},
                    {"nx", r.nx},
                    {"median_s", r.median_s},
                    {"min_s", r.min_s},
                    {"max_s", r.max_s},
                    {"efficiency", r.efficiency},
                    {"halo_wait_share", r.halo_wait_share}});
  }
  return out;
}

/// What was timed where; `load` of the machine before.
std::string heading(const Communicator& world, const Settings& s, Trainee& trainee, const Arithmetic& flop,
                    double load, Json& json) {
  const std::string devices = describe_devices(world, trainee.device);
  const std::int64_t weights = trainee.network.parameters().size(),
                     samples = s.parallel.replicas * s.bench.samples;
  const int threads = omp_get_max_threads();
  json = {
      {"program", "pluvia " PLUVIA_VERSION},
      {"date", format_time(static_cast<Time>(std::time(nullptr)))},
      {"device", devices},
      {"machine", {{"processor", processor()}, {"cores", omp_get_num_procs()}, {"load_average_1_min", load}}},
      {"ranks", world.size()},
      {"replicas", s.parallel.replicas},
      {"stages", s.parallel.stages},
      {"channel_shares", s.parallel.tensor},
      {"samples", samples},
      {"threads_per_rank", threads},
      {"grid_ny_nx", {s.bench.ny, s.bench.nx}},
      {"parameters", weights},
      {"flop", {{"forward", flop.forward}, {"step", flop.step}}}};
  return fmt::format("machine     {}, {} ranks x {} threads, load {:.2f} before the start\n", processor(),
                     world.size(), threads, load) +
         (trainee.device == Device::gpu ? fmt::format("device      {}\n", devices) : "") +
         fmt::format(
             "network     {}{} x {} cells, {} frames, {} inputs, {} leads, {} classes; {} parameters; "
             "{:.2f} GFLOP forward, {:.2f} a step (convolutions and linear layers)\n\n",
             samples > 1 ? fmt::format("{} samples of ", samples) : "", s.bench.ny, s.bench.nx,
             s.model.history, s.bench.inputs, trainee.ports.lead_hours.size(), trainee.ports.classes, weights,
             flop.forward / giga, flop.step / giga);
}

} // namespace

ExitCode bench(const Communicator& world, const Settings& s, const Log& log) {
  // All that can be wrong before minutes of work.
  for (const std::int64_t ranks : s.bench.ranks) {
    if (ranks > world.size())
      fail(ExitCode::usage, fmt::format("bench.ranks holds {}", ranks),
           fmt::format("the program runs on {} ranks", world.size()), "Start it on more ranks.");
    ladder_shape(s, static_cast<int>(ranks));
  }
  together(world, [&] {
    if (world.rank() != 0) return;
    prepare_part(s.bench.output, s.bench.output + ".part");
    std::filesystem::remove(s.bench.output + ".part");
  });
  const int rounds = static_cast<int>(s.bench.rounds);
  const Device device = agree_device(world, s);
  const Precision precision = agree_precision(world, s.train.precision, device);
  NetworkTiming network(world, s, precision, device, s.bench.ny, s.bench.nx);
  Trainee& trainee = network.trainee();
  const double load = load_average();

  // Memory first: the ceilings bring arrays of their own.
  const MemoryUse memory = measure_memory(world, network, s);
  Progress progress(log, "bench", 4);
  Profile profile(device);
  for (int i = 0; i < rounds; ++i)
    if (s.bench.training)
      network.step(&profile);
    else
      network.forecast(&profile);
  const Taken by_forecast = taken_by(world, [&] { network.forecast(); });
  std::optional<Taken> by_step;
  if (s.bench.training) by_step = taken_by(world, [&] { network.step(); });
  const Arithmetic flop = arithmetic(world, trainee, s);
  progress.update(1, "operators timed");

  std::vector<StepPhases> phases;
  const std::vector<Timed> timed = time_all(world, s, network, flop, phases);
  progress.update(2, "step and forecast timed");

  Json json;
  std::string out = heading(world, s, trainee, flop, load, json);
  out += timing_table(timed, json["timings"]);
  if (s.bench.training && s.train.exact) out += cost_of_exactness(timed, json["exact_to_fast"]);
  if (s.bench.training) out += phase_table(world, phases, json);
  out += memory_table(memory, by_forecast, by_step, json);
  if (trainee.pipeline.stages().count() > 1 && s.bench.training)
    out += stage_table(trainee.grid.stages, phases, s.bench.samples, json["stage_report"]);
  // The rows are of one rank, of its stage, and so is the ceiling to compare them with.
  out += operator_table(profile, rounds, timed[0].rate / world.size(), json["operators"]);
  if (world.size() > 1) out += time_messages(world, json["messages"]);
  progress.update(3, "messages timed");
  if (!s.bench.ranks.empty())
    out += fmt::format("\n{}", scaling_table(climb_ladder(world, s, precision, device), json["scaling"]));
  progress.update(4);

  together(world, [&] {
    if (world.rank() != 0) return;
    write_whole(s.bench.output, json.dump(1) + "\n");
  });
  if (log.voice() != Log::Voice::silent) std::fputs(out.c_str(), stdout);
  log.info("results in " + s.bench.output);
  return ExitCode::done;
}

} // namespace pluvia::commands
