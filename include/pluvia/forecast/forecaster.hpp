#pragma once
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/data/archive.hpp"

namespace pluvia {

/// Initial times that forecast.init asks for: TIME, a list, an inclusive range T1/T2/STEP, "latest" (the last
/// full hour with a frame), or, when empty, every full hour with a window wholly inside data.test. Local.
/// Throws a usage Error when the text is not understood, a data Error when the archive has no frame to start
/// from.
std::vector<Time> requested_times(const Settings& settings, const ArchiveIndex& index);

/// Writes one probability file per initial time from a trained model, each complete or not there at all.
/// Thresholds, leads, predictors and network come from the checkpoint; settings that say otherwise are
/// refused. Of several checkpoints, which must agree in target and frames and whose first the settings must
/// match, the calibrated probabilities are averaged. Beside each file, one per model with what
/// forecast.write_attention asks for. Returns the paths written. Collective over `world`; the bits of the
/// data do not depend on the ranks.
std::vector<std::string> run_forecasts(const Communicator& world, const Settings& settings, const Log& log);

} // namespace pluvia
