#pragma once
#include <string>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/core/settings.hpp"

// One function per subcommand, each in the source file of its name. They are collective over `world`, take
// checked settings, throw Error (all ranks together wherever a rank may fail alone), and return the exit
// code.
namespace pluvia::commands {

/// A satellite and rain archive from a moist shallow-water simulation.
ExitCode simulate(const Communicator& world, const Settings& settings, const Log& log);

/// An archive from raw satellite and precipitation files.
ExitCode prepare(const Communicator& world, const Settings& settings, const Log& log);

/// A run folder: checkpoints, log, resolved configuration, calibration.
ExitCode train(const Communicator& world, const Settings& settings, const Log& log);

/// One probability file per initial time.
ExitCode forecast(const Communicator& world, const Settings& settings, const Log& log);

/// Scores of forecasts against the archive and its references.
ExitCode verify(const Communicator& world, const Settings& settings, const Log& log);

/// Tiles, memory per rank and messages per step, before a job is queued.
ExitCode plan(const Communicator& world, const Settings& settings, const Log& log);

/// Timings of the machine, the operators, a training step and a forecast, as tables and JSON.
ExitCode bench(const Communicator& world, const Settings& settings, const Log& log);

/// The reference of every key, or of one section (empty = all), on standard output. Local.
ExitCode config(const std::string& section, const Log& log);

/// What an archive, checkpoint, forecast or attention file holds, on standard output.
ExitCode info(const Communicator& world, const std::string& file, const Log& log);

/// The weights of a checkpoint as a safetensors file for other programs.
ExitCode export_weights(const Communicator& world, const std::string& file, const std::string& output,
                        const Log& log);

} // namespace pluvia::commands
