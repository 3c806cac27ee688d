#pragma once
#include <string>

#include "pluvia/ad/tape.hpp"
#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/precision.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

/// Where training, and what is timed of it, is computed: parallel.device (see take_device), but the
/// processors for auto with train.exact. Throws a usage Error where exact sums are asked of an accelerator.
/// Collective.
Device agree_device(const Communicator& world, const Settings& settings);

/// What train.precision ("auto", "f32" or "bf16") comes to: auto is bf16 where every rank's processor has it
/// natively, and all in the same unit, so that a cell has the same bits on any of them, and on GPUs; else
/// f32. Collective. Throws a usage Error when bf16 is asked for otherwise.
Precision agree_precision(const Communicator& comm, const std::string& wanted, Device device);

const char* name_of(Precision precision);

/// What train.keep ("everything" or "blocks") means to a tape.
Tape::Keep keep_of(const TrainSettings& settings);

/// The blocks that gradients are summed in with train.exact: parallel.block and block_frames. Without, none.
WholeBlocks whole_blocks(const Settings& settings);

/// Those blocks on the tile of `tiles`, and how ranks that hold the same share them out.
GradientBlocks blocks_of(const Settings& settings, const Decomposition& tiles);

} // namespace pluvia
