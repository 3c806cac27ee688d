// The program: reads the command line and the configuration, runs one subcommand on all ranks, and makes sure
// that every way of failing ends the whole job with a message and the documented exit code.
#include <malloc.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <mpi.h>

#include "commands.hpp"
#include "pluvia/comm/stop_signals.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/device.hpp"

namespace pluvia {
namespace {

struct Subcommand {
  const char *name, *purpose;
  ExitCode (*run)(const Communicator&, const Settings&, const Log&);
  bool stops = false; ///< on request, when it has saved (StopSignals); others are killed by the same signals
};

/// The subcommands that read a configuration.
std::vector<Subcommand> subcommands() {
  return {
#ifdef PLUVIA_PETSC
      {"simulate", "Make a satellite and rain archive from a moist shallow-water simulation",
       commands::simulate},
#endif
      {"prepare", "Make an archive from raw satellite and precipitation files", commands::prepare, true},
      {"train", "Train a network on an archive", commands::train, true},
      {"forecast", "Write probabilities of precipitation for each initial time", commands::forecast},
      {"verify", "Score forecasts against the archive and reference forecasts", commands::verify},
      {"bench", "Time the machine, the operators, a training step and a forecast", commands::bench},
      {"plan", "Show tiles, memory and messages of a run before it is queued", commands::plan},
  };
}

/// The text of a file on every rank, read by rank 0. Collective.
std::string read_on_root(const Communicator& world, const std::string& name) {
  std::string text;
  together(world, [&] {
    if (world.rank() != 0) return;
    errno = 0;
    std::ifstream file;
    if (std::filesystem::is_directory(name))
      errno = EISDIR;
    else
      file.open(name, std::ios::binary);
    if (!file.is_open())
      fail(ExitCode::usage, "The configuration " + name + " cannot be read", std::strerror(errno),
           "Check the path; inputs/ holds examples.");
    text.assign(std::istreambuf_iterator<char>(file), {});
  });
  world.broadcast(text, 0);
  return text;
}

/// Throws a usage Error when some ranks were started in another way: they would wait for each other for ever.
/// Collective.
void require_one_command_line(const Communicator& world, const std::string& subcommand,
                              const std::string& configuration, const std::vector<std::string>& overrides) {
  const std::string mine = subcommand + "\n" + configuration + "\n" + CLI::detail::join(overrides, "\n");
  std::string first = mine;
  world.broadcast(first, 0);
  together(world, [&] {
    if (mine != first)
      fail(ExitCode::usage, "Ranks have different command lines",
           "all must have the same subcommand, configuration and keys",
           "Start all of them with one command line.");
  });
}

/// This rank's share of the cores it may run on: a core that k ranks of the node may use counts 1 / k, which
/// is right whether the launcher binds ranks or not. Collective.
int fair_threads(const Communicator& world) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof mine, &mine); // on failure no core is set and one thread results
  std::vector<int> sharers(CPU_SETSIZE, 0);
  for (const std::string& bytes :
       world.split_by_node().all_gather({reinterpret_cast<const char*>(&mine), sizeof mine})) {
    cpu_set_t theirs;
    std::memcpy(&theirs, bytes.data(), sizeof theirs);
    for (std::size_t cpu = 0; cpu < sharers.size(); ++cpu) sharers[cpu] += CPU_ISSET(cpu, &theirs) ? 1 : 0;
  }
  double share = 0;
  for (std::size_t cpu = 0; cpu < sharers.size(); ++cpu)
    if (CPU_ISSET(cpu, &mine)) share += 1.0 / sharers[cpu];
  return std::max(1, static_cast<int>(share + 1e-6));
}

/// parallel.threads, or what the batch system says, or a fair share. Collective.
void set_threads(const Communicator& world, const ParallelSettings& parallel) {
  if (parallel.threads > 0)
    omp_set_num_threads(static_cast<int>(parallel.threads));
  else if (std::getenv("OMP_NUM_THREADS") == nullptr)
    omp_set_num_threads(fair_threads(world));
}

/// Keeps freed memory in the process. By default the C library maps each large tensor anew and returns it to
/// the kernel when it is freed, so that every step would fault in and clear the same gigabytes page by page.
void recycle_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

ExitCode run(const Communicator& world, const Log& log, int argc, char** argv) {
  CLI::App app("Calibrated probabilities of precipitation from satellite image sequences", "pluvia");
  const bool cuda = accelerator::kind() == accelerator::Kind::cuda;
  app.set_version_flag("--version", std::string("pluvia " PLUVIA_VERSION) + (cuda ? " with CUDA" : ""));
  app.require_subcommand(1);
  app.footer("\nEvery subcommand runs on one rank or, under mpirun or srun, on many, with the same result.\n"
             "Exit codes: 0 done, 1 failed, 2 bad configuration or usage, 3 bad or insufficient data,\n"
             "75 stopped on request after saving (submit the job again).");
  std::string argument, output;
  std::vector<std::string> overrides;
  std::function<ExitCode()> action;
  bool stops = false;
  for (const Subcommand& subcommand : subcommands()) {
    CLI::App* sub = app.add_subcommand(subcommand.name, subcommand.purpose);
    sub->add_option("CONFIG", argument, "configuration (YAML)")->required();
    sub->add_option("key=value", overrides, "replacements of single keys, as in train.steps=100");
    sub->callback([&, name = subcommand.name, command = subcommand.run, on_request = subcommand.stops] {
      stops = on_request;
      action = [&, name, command] {
        const std::string text = read_on_root(world, argument);
        require_one_command_line(world, name, argument, overrides);
        const Settings settings = parse_settings(text, argument, overrides);
        set_threads(world, settings.parallel);
        return command(world, settings, log);
      };
    });
  }
  CLI::App* config = app.add_subcommand("config", "Show every key: type, default, unit, range and meaning");
  config->add_option("SECTION", argument, "one section, as in train");
  config->callback([&] { action = [&] { return commands::config(argument, log); }; });
  CLI::App* info =
      app.add_subcommand("info", "Show what an archive, checkpoint, forecast or attention file holds");
  info->add_option("FILE", argument, "NetCDF or HDF5 file")->required();
  info->callback([&] { action = [&] { return commands::info(world, argument, log); }; });
  CLI::App* exporter = app.add_subcommand("export", "Write the weights of a checkpoint for other programs");
  exporter->add_option("CHECKPOINT", argument, "checkpoint (HDF5)")->required();
  exporter->add_option("OUTPUT", output, "file to write (safetensors)")->required();
  exporter->callback(
      [&] { action = [&] { return commands::export_weights(world, argument, output, log); }; });

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked_for_text) { // --help, --version
    if (world.rank() == 0) app.exit(asked_for_text);
    return ExitCode::done;
  } catch (const CLI::ParseError& error) {
    std::vector<std::string> known;
    for (const CLI::App* sub : std::as_const(app).get_subcommands({})) known.push_back(sub->get_name());
    if (argc > 1 && argv[1][0] != '-' && std::ranges::find(known, argv[1]) == known.end())
      fail(ExitCode::usage, std::string("There is no subcommand ") + argv[1],
           "this build has " + CLI::detail::join(known, ", "), "See pluvia --help.");
    fail(ExitCode::usage, "The command line is not understood", error.what(), "See pluvia --help.");
  }
  if (!stops) release_stop_signals();
  return action();
}

/// Ends the job after this rank has ended with `code` and, when it failed, `message`; returns the exit code
/// of all ranks. A failure that all ranks reach is said once. When some ranks do not come, because a failure
/// on this one left them waiting in a collective, they are told by MPI_Abort. Collective over the ranks that
/// come.
int conclude(const Communicator& ending, int code, const std::string& message) {
  struct Ending {
    std::int64_t code;
    std::uint64_t message; ///< a hash
    bool operator==(const Ending&) const = default;
  };
  const Ending mine{code, std::hash<std::string>{}(message)};
  std::vector<Ending> all(static_cast<std::size_t>(ending.size()));
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, ending.raw(), &request);

  using namespace std::chrono_literals;
  constexpr auto patience = 5s; // ranks that fail together unwind within milliseconds of each other
  const auto start = std::chrono::steady_clock::now();
  for (int everybody = 0;;) {
    MPI_Test(&request, &everybody, MPI_STATUS_IGNORE);
    if (everybody != 0) break;
    if (!message.empty() && std::chrono::steady_clock::now() - start > patience) {
      std::fputs(("pluvia: rank " + std::to_string(ending.rank()) + ": " + message + "\n").c_str(), stderr);
      MPI_Abort(MPI_COMM_WORLD, code);
    }
    std::this_thread::sleep_for(1ms);
  }

  const auto failed = [](const Ending& rank) { return rank.code != 0; };
  const auto first = std::ranges::find_if(all, failed);
  if (first == all.end()) return 0;
  // A rank speaks unless a lower one says the same.
  if (!message.empty() && std::ranges::find(all, mine) - all.begin() == ending.rank()) {
    const bool alike = std::ranges::count(all, mine) == ending.size();
    const std::string who = alike ? "" : "rank " + std::to_string(ending.rank()) + ": ";
    std::fputs(("pluvia: " + who + message + "\n").c_str(), stderr);
  }
  return static_cast<int>(first->code);
}

} // namespace
} // namespace pluvia

int main(int argc, char** argv) {
  using namespace pluvia;
  hold_stop_signals();
  recycle_memory();
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); // inherited; mpi_check turns codes into errors
  int code = 0;
  {
    const Communicator world(MPI_COMM_WORLD), ending(MPI_COMM_WORLD);
    std::string message;
    try {
      if (provided < MPI_THREAD_SERIALIZED)
        fail(ExitCode::failed, "MPI cannot be called from more than one thread",
             "MPI_THREAD_SERIALIZED is needed", "Use an MPI library built with thread support.");
      code = static_cast<int>(run(world, Log::for_rank(world.rank()), argc, argv));
    } catch (...) {
      const detail::Caught caught = detail::describe_current_exception();
      code = caught.code;
      message = caught.text.empty() ? "unknown error" : caught.text;
    }
    std::fflush(stdout);
    code = conclude(ending, code, message);
  }
  MPI_Finalize();
  return code;
}
