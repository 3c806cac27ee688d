#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pluvia/core/log.hpp"
#include "pluvia/model/checkpoint.hpp"
#include "pluvia/model/climatology.hpp"
#include "pluvia/model/hourly_climatology.hpp"
#include "pluvia/model/logistic_regression.hpp"
#include "pluvia/train/trainee.hpp"
#include "pluvia/train/training_archive.hpp"
#include "pluvia/train/training_sample.hpp"
#include "pluvia/train/weighing.hpp"

namespace pluvia {

/// The samples that a trainee sees, on this rank's tile, and what is known of the whole training range to
/// make them: how values are distributed, the climatology, and the regressions where logits start from those.
class TrainingSamples {
public:
  /// Reads the training range; all but the log must outlive it. Collective. Throws a data Error when a range
  /// holds no sample, or nothing to learn those things from.
  TrainingSamples(const Communicator& world, const Settings& settings, const Log& log,
                  const TrainingArchive& archive, const Trainee& trainee);

  const TrainingArchive& archive() const { return archive_; }
  const ScoredCells& cells() const { return cells_; }
  /// Initial times in all.
  std::size_t for_training() const { return inits_.size(); }
  std::size_t for_validation() const { return validation_inits_.size(); }

  /// What a stage needs of a sample: the first its input, the last what its logits start from and are held
  /// against.
  struct Needs {
    bool input = true, score = true;
  };
  /// Those of a step's batch that this rank works on. Drawn in an order that depends on the seed and the step
  /// alone, as does what they go without or are disturbed by. Local.
  std::vector<TrainingSample> batch(std::int64_t step, Needs needs);

  /// The i-th of n initial times taken evenly from the validation range, and its sample, undisturbed. Local.
  Time validation_init(std::size_t i, std::size_t n) const {
    return validation_inits_[(2 * i + 1) * validation_inits_.size() / (2 * n)];
  }
  TrainingSample validation(std::size_t i, std::size_t n);

  /// What a forecast needs to make its own: each rank has its tile of the fields, if it writes them. Local.
  void store(Checkpoint& checkpoint) const;

private:
  /// Draws for a training sample.
  struct Draws {
    DayDraw days; ///< it sees the climatology without its own neighbourhood in time, too
    Disturbance disturbance;
  };
  std::vector<Time> with_history(std::span<const TimeSpan> spans) const;
  std::vector<Time> batch_at(std::int64_t step) const;
  TrainingSample sample(Time init, std::span<const TimeSpan> spans, Needs needs, const Draws* draws);

  const TrainSettings& settings_;
  const TrainingArchive& archive_;
  const Trainee& trainee_;
  ScoredCells cells_;
  Sampler sampler_;
  Normalisation normalisation_;
  Climatology climatology_; ///< of the training range
  HourlyClimatology hourly_;
  std::vector<LogisticRegression> regressions_; ///< by lead; empty: the base is the climatology
  std::optional<ArchiveReader> surroundings_;   ///< of the tile, for the regressions
  std::vector<Time> inits_, validation_inits_;
};

} // namespace pluvia
