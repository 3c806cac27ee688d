#include "pluvia/train/trainer.hpp"

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/comm/devices.hpp"
#include "pluvia/comm/stop_signals.hpp"
#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/stopwatch.hpp"
#include "pluvia/io/durable.hpp"
#include "pluvia/model/forecast_model.hpp"
#include "pluvia/train/precision.hpp"
#include "pluvia/train/run_folder.hpp"
#include "pluvia/train/trainee.hpp"
#include "pluvia/train/training_archive.hpp"
#include "pluvia/train/training_samples.hpp"
#include "pluvia/train/training_state.hpp"
#include "pluvia/train/training_steps.hpp"
#include "pluvia/train/validation.hpp"

namespace pluvia {

namespace {

/// A training from where it starts, or goes on, to its end.
class Training {
public:
  /// The folder is its own, and what it goes on from is known, before it reads the archive for its samples.
  Training(const Communicator& world, const Settings& settings, const Log& log)
      : world_(world), settings_(settings), log_(log), archive_(open_training_archive(world, settings)),
        trainee_(make_trainee(world, settings, archive_.index.grid)), steps_(world, settings, log, trainee_),
        folder_(open_run_folder(world, log, settings.train.output)), resumed_(resume()),
        samples_(world, settings, log, archive_, trainee_) {}

  TrainOutcome run();

private:
  bool resume();
  void restore(const TrainingState& state);
  void begin();
  /// Steps, with all that is due in between, until they are done or the run is asked to stop.
  TrainOutcome go_on();
  void finish();
  /// Looks at what the steps came to, and notes it, but for the latest `under_way`. False when a loss or
  /// gradient is not finite: training went back. Collective over the world.
  bool settle(std::size_t under_way);
  void roll_back(std::int64_t diverged_at);
  void validate() {
    last_ = pluvia::validate(world_, trainee_, samples_,
                             static_cast<std::size_t>(settings_.train.validate_samples));
  }
  /// Validates, and keeps the weights if they are the best so far.
  void consider(std::int64_t at_step);
  void require_loss(bool finite) const;
  TrainingState state() const { return state_of(trainee_.shards, trainee_.adam, best_, rate_factor_); }
  /// A checkpoint with all but what belongs to the network's weights.
  Checkpoint surroundings() const;
  void save(const std::string& path, const Checkpoint& checkpoint) const;
  void save_state();
  void save_best() const;
  void note(const nlohmann::ordered_json& line);

  const Communicator& world_;
  const Settings& settings_;
  const Log& log_;
  TrainingArchive archive_;
  Trainee trainee_;
  TrainingSteps steps_; ///< gone before the trainee's links, whose messages they recorded
  StopSignals signals_;
  RunFolder folder_;
  BestWeights best_;
  double rate_factor_ = 1; ///< of the learning rate; less after training went back
  bool resumed_; ///< from a checkpoint: the weights and their optimiser, best_ and rate_factor_ are its
  TrainingSamples samples_;
  std::string calibration_;
  double loss_ = std::numeric_limits<double>::quiet_NaN(); ///< of the latest step that was looked at
  Validation last_;
  TrainingState last_saved_; ///< before the first save the start
  std::ofstream log_file_;
};

bool Training::resume() {
  const auto path = starting_checkpoint(world_, log_, folder_, settings_.train.from);
  if (!path) {
    if (!settings_.train.from.empty())
      log_.info("no checkpoint in " + settings_.train.output + " yet: starting anew");
    return false;
  }
  double seconds = 0;
  const Checkpoint c = [&] {
    const Stopwatch reading(seconds);
    return read_checkpoint(world_, *path, trainee_.tiles.tile(0), nullptr, own_runs(trainee_.shards));
  }();
  require_same_model(parse_settings(c.configuration, *path, {}), *path, settings_, "train anew");
  restore(load_state(c, trainee_.shards, *path));
  log_.info(fmt::format("going on from {} at step {}{}; read in {:.2f} s", *path, c.step,
                        rate_factor_ < 1 ? fmt::format(" with {} of the learning rate", rate_factor_) : "",
                        seconds));
  return true;
}

void Training::restore(const TrainingState& state) {
  set_state(state, trainee_.shards, trainee_.adam);
  best_ = state.best;
  rate_factor_ = state.rate_factor;
}

/// Back to what was saved last, from where on steps are smaller; that helps once or not at all.
void Training::roll_back(std::int64_t diverged_at) {
  const std::string problem = "Training diverged at step " + std::to_string(diverged_at);
  if (rate_factor_ < 1)
    fail(ExitCode::failed, problem,
         fmt::format("loss or gradient is not finite, with {} of the learning rate too", rate_factor_),
         "Lower train.learning_rate and go on with train.from=latest.");
  restore(last_saved_);
  rate_factor_ = 0.5;
  log_.warn(
      fmt::format("{} (loss or gradient is not finite): back to step {}, on with half the learning rate",
                  problem, last_saved_.step));
  note({{"step", diverged_at}, {"rolled_back_to", last_saved_.step}});
}

bool Training::settle(std::size_t under_way) {
  while (const auto step = steps_.settle(under_way)) {
    loss_ = step->loss;
    if (!step->observed) {
      note({{"step", step->number + 1}, {"observed", false}});
      continue;
    }
    if (!step->finite()) {
      steps_.forget();
      roll_back(step->number + 1);
      return false;
    }
    note({{"step", step->number + 1},
          {"loss", loss_},
          {"learning_rate", step->rate},
          {"gradient_norm", step->norm}});
  }
  return true;
}

void Training::consider(std::int64_t at_step) {
  validate();
  note({{"step", at_step}, {"validation_loss", last_.loss}, {"climatology_loss", last_.climatology}});
  if (last_.loss < best_.loss) best_ = {last_.loss, at_step, values_of(trainee_.adam.average)};
}

void Training::require_loss(bool finite) const {
  if (!finite)
    fail(ExitCode::failed, "Validation has no finite loss",
         "a forecast of data.validate is not a number somewhere",
         "Look for values out of range in data.archive, and at losses in " + folder_.log() + ".");
}

Checkpoint Training::surroundings() const {
  Checkpoint c;
  c.configuration = resolved_yaml(settings_);
  if (!calibration_.empty()) c.texts["calibration"] = calibration_;
  samples_.store(c);
  return c;
}

void Training::save(const std::string& path, const Checkpoint& checkpoint) const {
  require_own(world_, folder_);
  const Decomposition& tiles = trainee_.tiles;
  double seconds = 0;
  {
    const Stopwatch writing(seconds);
    write_checkpoint(world_, path, checkpoint, tiles.domain(0),
                     trainee_.writes_fields() ? tiles.tile(0) : Rect{});
  }
  log_.info(fmt::format("saved {} in {:.2f} s", path, seconds));
}

void Training::save_state() {
  if (!trainee_.shards.agree())
    fail(ExitCode::failed, "Ranks have different weights",
         "their sums of gradients differ, which the MPI library or NCCL must not let happen",
         "Go on with train.from=latest and train.exact=true, or with another version of the library.");
  last_saved_ = {}; // first, for memory holds one of them
  last_saved_ = state();
  Checkpoint checkpoint = surroundings();
  store_state(last_saved_, trainee_.shards, checkpoint);
  save(folder_.at_step(last_saved_.step), checkpoint);
  prune_checkpoints(world_, folder_, 2);
}

/// The best weights stand where forecasts look for them; a checkpoint to forecast with needs no optimiser.
void Training::save_best() const {
  Checkpoint checkpoint = surroundings();
  store_best(best_, rate_factor_, trainee_.shards, checkpoint);
  save(folder_.best(), checkpoint);
}

void Training::note(const nlohmann::ordered_json& line) {
  if (log_file_.is_open()) log_file_ << line.dump() << std::endl;
}

void Training::begin() {
  together(world_, [&] {
    if (world_.rank() != 0) return;
    errno = 0;
    log_file_.open(folder_.log(), resumed_ ? std::ios::app : std::ios::trunc);
    if (!log_file_.is_open())
      fail(ExitCode::usage, "Cannot write " + folder_.log(), std::strerror(errno),
           "Take it away, or choose another train.output.");
    write_whole(folder_.configuration(), resolved_yaml(settings_));
  });
  const ProcessGrid& grid = trainee_.grid;
  const auto of = [](int parts, const std::string& what) {
    return parts > 1 ? fmt::format("{} {} of ", parts, what) : "";
  };
  log_.info(fmt::format("{} parameters, {} training samples, {} validation samples, {}{}{}{}, {}{}, {}",
                        trainee_.network.parameters().size(), samples_.for_training(),
                        samples_.for_validation(), of(grid.replicas, "replicas"),
                        of(grid.stages.size(), "stages"), of(grid.channels.size(), "shares of the channels"),
                        describe(trainee_.tiles.partition()), name_of(trainee_.precision),
                        settings_.train.exact ? ", exact" : "", describe_devices(world_, trainee_.device)));
  if (trainee_.adam.step == 0)
    consider(0);
  else
    validate();
  require_loss(std::isfinite(last_.loss));
  last_saved_ = state();
}

TrainOutcome Training::go_on() {
  const TrainSettings& t = settings_.train;
  Progress progress(log_, "train", t.steps);
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t first = trainee_.adam.step;
  for (std::int64_t n = first; n < t.steps; n = trainee_.adam.step) {
    steps_.take(n, rate_factor_, samples_);
    const bool last_step = n + 1 == t.steps, looks = (n + 1) % t.validate_every == 0 || last_step,
               saves = (n + 1) % t.checkpoint_every == 0 || last_step;
    // An accelerator is given its next step before anybody looks at what it found in this one.
    const std::size_t under_way = steps_.on_accelerator() && !looks && !saves ? 1 : 0;
    if (!settle(under_way)) continue;
    if (looks) consider(n + 1);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                           static_cast<double>(n + 1 - first);
    progress.update(n + 1, fmt::format("loss {:.4f}, validation {:.4f} (climatology {:.4f}), {:.2f} s a step",
                                       loss_, last_.loss, last_.climatology, seconds));
    const bool stop = signals_.agreed(world_);
    if (!settle(stop ? 0 : under_way)) continue;
    if (saves || stop) save_state();
    if (stop) { // at the last step, too: calibration may take longer than there is time
      log_.info(fmt::format("asked to stop: saved at step {}; go on with train.from=latest", n + 1));
      return TrainOutcome::stopped;
    }
  }
  return TrainOutcome::finished;
}

void Training::finish() {
  require_loss(best_.known());
  trainee_.shards.set_values(best_.values);
  calibration_ = to_json(fit_calibration(world_, log_, trainee_, samples_));
  save_best();
  log_.info(fmt::format("best at step {}: validation loss {:.4f}, climatology {:.4f}; {}", best_.step,
                        best_.loss, last_.climatology, folder_.best()));
}

TrainOutcome Training::run() {
  begin();
  const TrainOutcome outcome = go_on();
  if (outcome == TrainOutcome::finished) finish();
  return outcome;
}

} // namespace

TrainOutcome run_training(const Communicator& world, const Settings& settings, const Log& log) {
  return Training(world, settings, log).run();
}

} // namespace pluvia
