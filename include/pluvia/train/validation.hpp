#pragma once
#include <cstddef>

#include "pluvia/core/log.hpp"
#include "pluvia/model/calibration.hpp"
#include "pluvia/train/trainee.hpp"
#include "pluvia/train/training_samples.hpp"

namespace pluvia {

/// Mean losses of validation samples.
struct Validation {
  double loss = 0;        ///< of the network's forecasts
  double climatology = 0; ///< of the climatology as a forecast
};
/// Of the moving average of the weights, on `most` samples at most, evenly taken from the validation range.
/// Collective over the world. Throws a data Error when nothing in them is observed.
Validation validate(const Communicator& world, Trainee& trainee, TrainingSamples& samples, std::size_t most);

/// The calibration of the weights as they are, fitted on forecasts of the validation range. Collective over
/// the world.
Calibration fit_calibration(const Communicator& world, const Log& log, Trainee& trainee,
                            TrainingSamples& samples);

} // namespace pluvia
