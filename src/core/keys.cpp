#include "keys.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace pluvia {

namespace {

// ---- Declarations -----------------------------------------------------------------------------------------

/// Takes one declaration: name, where the value lives, unit, limits, meaning.
class Declare {
public:
  explicit Declare(std::vector<Key>& keys) : keys_(keys) {}
  void operator()(std::string name, Key::Target target, std::string unit, Limits limits,
                  std::string meaning) const {
    keys_.push_back({std::move(name), target, std::move(unit), std::move(limits), std::move(meaning)});
  }

private:
  std::vector<Key>& keys_;
};

void declare(DataSettings& s, const Declare& key) {
  const Limits time{.time = true};
  key("data.archive", &s.archive, "", {}, "NetCDF files or globs that together hold the frames");
  key("data.train.from", &s.train.from, "UTC", time,
      "start of the training range; what it shares with the others is left out; empty = open");
  key("data.train.to", &s.train.to, "UTC", time, "end of the training range, excluded; empty = open");
  key("data.validate.from", &s.validate.from, "UTC", time, "start of the validation range");
  key("data.validate.to", &s.validate.to, "UTC", time, "end of the validation range, excluded");
  key("data.test.from", &s.test.from, "UTC", time, "start of the test range");
  key("data.test.to", &s.test.to, "UTC", time, "end of the test range, excluded");
  key("data.predictors", &s.predictors, "", {},
      "variables the network sees: the target's past may be one, and fields without time (land, terrain)");
  key("data.target", &s.target, "", {}, "variable of the precipitation rate [mm h-1]");
  key("data.precip_label", &s.precip_label, "", {.words = {"start", "end"}},
      "which end of its interval a precipitation time names");
  key("data.latency_minutes", &s.latency_minutes, "min", {.low = 0},
      "how late each predictor arrives, by name");
  key("data.cache_mib", &s.cache_mib, "MiB", {.low = 1}, "decoded frames kept per rank");
}

void declare(GridSettings& s, const Declare& key) {
  key("grid.periodic_x", &s.periodic_x, "", {.words = {"auto", "yes", "no"}},
      "whether the longitude axis closes; auto = when its cells span 360 degrees");
}

void declare(TargetSettings& s, const Declare& key) {
  const Limits ascending{.low = 0, .above_low = true, .ascending = true, .not_empty = true};
  key("target.leads_hours", &s.leads_hours, "h", ascending,
      "lead times: from the last frame to a window's end");
  key("target.window_hours", &s.window_hours, "h", {.low = 0, .high = 240, .above_low = true},
      "length of the accumulation window");
  key("target.thresholds_mm", &s.thresholds_mm, "mm", ascending, "amounts whose exceedance is forecast");
}

void declare(ModelSettings& s, const Declare& key) {
  key("model.history", &s.history, "frames", {.low = 1, .high = 96}, "frames the network sees");
  key("model.frame_minutes", &s.frame_minutes, "min", {.low = 1, .high = 1440}, "spacing of those frames");
  key("model.channels", &s.channels, "", {.low = 16, .high = 2048, .multiple = 16, .not_empty = true},
      "channels of each level, finest first; an attention head has 16");
  key("model.input_merge", &s.input_merge, "cells", {.low = 1, .high = 2},
      "cells merged each way before the first level");
  key("model.attention.form", &s.attention.form, "", {.words = {"neighbourhood", "windowed", "joint"}},
      "cells that a cell attends to: around it, in its aligned window, or around it in all earlier frames");
  key("model.attention.levels", &s.attention.levels, "", {},
      "levels with attention; negative = from the coarsest");
  key("model.attention.radius", &s.attention.radius, "cells", {.low = 1, .high = 16},
      "reach of neighbourhood and joint attention");
  key("model.attention.window", &s.attention.window, "cells", {.low = 2, .high = 32},
      "width of the windowed form");
  key("model.attention.global", &s.attention.global, "", {.words = {"none", "linear", "softmax"}},
      "attention to all cells of the domain as well; linear = through sums over them, softmax = to each");
  key("model.temporal_core", &s.temporal_core, "", {.words = {"attention", "recurrent"}},
      "what looks through time on levels with attention: attention to all earlier frames, or a gated memory");
  key("model.skip_radius", &s.skip_radius, "cells", {.low = 0, .high = 8},
      "reach of a lead-time query in the skips");
  key("model.head_init", &s.head_init, "", {.words = {"zero", "random"}},
      "last layer at the start; zero = an untrained network forecasts its base");
  key("model.base", &s.base, "", {.words = {"climatology", "regression"}},
      "what the network corrects: climatology, or a logistic regression on recent brightness temperature and "
      "rain");
}

void declare(ParallelSettings& s, const Declare& key) {
  const Limits count{.low = 0, .high = 65536};
  key("parallel.device", &s.device, "", {.words = {"auto", "cpu", "gpu", "pretend"}},
      "where networks are computed; auto = GPUs where the program was built for them and all nodes have "
      "some; pretend = their code on the processor, for tests");
  key("parallel.replicas", &s.replicas, "", {.low = 1, .high = 65536},
      "copies of the whole domain, each on as many ranks, that share the samples of a training step");
  key("parallel.stages", &s.stages, "", {.low = 1, .high = 3},
      "parts of the network's depth, each on as many ranks, through which a training step's samples pass");
  key("parallel.tensor", &s.tensor, "ranks", {.low = 1, .high = 64},
      "ranks that hold the same tile and frames and share out heads and channels of the network's blocks");
  key("parallel.time", &s.time, "ranks", {.low = 1, .high = 96},
      "ranks that share a tile: each has some of model.history's frames and some of the leads");
  key("parallel.rows", &s.rows, "ranks", count, "rows of the process grid; 0 = automatic");
  key("parallel.cols", &s.cols, "ranks", count, "columns of the process grid; 0 = automatic");
  key("parallel.block", &s.block, "cells", {.low = 1, .high = 65536},
      "side of the blocks of train.exact, whose tiles begin on whole blocks; a multiple of the coarsest "
      "cell");
  key("parallel.block_frames", &s.block_frames, "frames", {.low = 0, .high = 65536},
      "frames, and leads, of those blocks, which parallel.time does not cut; 0 = all of them");
  key("parallel.threads", &s.threads, "threads", {.low = 0, .high = 4096},
      "per rank; 0 = OMP_NUM_THREADS, or else the node's cores shared out over its ranks");
}

void declare(TrainSettings& s, const Declare& key) {
  const Limits positive{.low = 1};
  key("train.steps", &s.steps, "steps", positive, "length of the run");
  key("train.batch", &s.batch, "samples", {.low = 1, .high = 65536}, "samples in one step, over all ranks");
  key("train.learning_rate", &s.learning_rate, "", {.low = 0, .high = 1, .above_low = true},
      "peak of the schedule");
  key("train.warmup", &s.warmup, "steps", {.low = 0}, "linear rise before the cosine");
  key("train.weight_decay", &s.weight_decay, "", {.low = 0, .high = 1}, "decoupled decay of weights");
  key("train.clip_norm", &s.clip_norm, "", {.low = 0, .above_low = true},
      "global norm the gradient is clipped to");
  key("train.dropout", &s.dropout, "1", {.low = 0, .high = 0.9},
      "share of the skips' channels that a sample does without");
  key("train.climatology_dropout", &s.climatology_dropout, "1", {.low = 0, .high = 0.9},
      "largest share of days that a sample's climatology does without");
  key("train.frame_dropout", &s.frame_dropout, "1", {.low = 0, .high = 0.9},
      "share of the predictors' frames that a sample misses, as after an outage; never all the newest");
  key("train.brightness_jitter_kelvin", &s.brightness_jitter_kelvin, "K", {.low = 0, .high = 50},
      "deviation of an offset that a sample adds to all predictors with time but the target's past");
  key("train.precision", &s.precision, "", {.words = {"auto", "f32", "bf16"}},
      "of products in training; auto = bf16 where all processors multiply it, and alike (AMX or "
      "AVX512_BF16), else f32");
  key("train.keep", &s.keep, "", {.words = {"everything", "blocks"}},
      "activations kept for the backward pass; blocks = about half the memory, a fifth more time");
  key("train.exact", &s.exact, "", {},
      "the same weights, to the bit, on every process grid: gradients are summed in blocks of parallel.block "
      "cells");
  key("train.graph", &s.graph, "", {},
      "on GPUs, record the work of a step once and replay it (a CUDA graph)");
  key("train.seed", &s.seed, "", {.low = 0}, "of initial weights and sample order");
  key("train.output", &s.output, "", {.not_empty = true}, "run folder: checkpoints, log, configuration");
  key("train.from", &s.from, "", {}, "checkpoint to go on from, or latest; empty = start anew");
  key("train.checkpoint_every", &s.checkpoint_every, "steps", positive, "between checkpoints");
  key("train.validate_every", &s.validate_every, "steps", positive, "between validations");
  key("train.validate_samples", &s.validate_samples, "samples", positive, "initial times in one validation");
}

void declare(ForecastSettings& s, const Declare& key) {
  key("forecast.checkpoint", &s.checkpoint, "", {},
      "trained models, whose probabilities are averaged; empty = the best one in train.output");
  key("forecast.init", &s.init, "UTC", {},
      "initial times: TIME, T1,T2,..., T1/T2/PT6H or latest; empty = the whole test range");
  key("forecast.output", &s.output, "", {.not_empty = true}, "folder of the products");
  key("forecast.calibrate", &s.calibrate, "", {},
      "correct the network's probabilities by what it did on the validation range");
  key("forecast.write_logits", &s.write_logits, "", {}, "write the network's raw logits as well");
  key("forecast.write_attention", &s.write_attention, "degrees", {},
      "points [latitude, longitude] for which it is written where and when the network looked");
}

void declare(VerifySettings& s, const Declare& key) {
  key("verify.forecasts", &s.forecasts, "", {}, "folder of forecasts; empty = forecast.output");
  key("verify.output", &s.output, "", {.not_empty = true}, "folder of the scores");
  key("verify.merge", &s.merge, "", {},
      "scores.json files or globs of other runs (array jobs) to add up instead of scoring forecasts");
}

void declare(BenchSettings& s, const Declare& key) {
  const Limits positive{.low = 1}, extent{.low = 8, .high = 65536};
  key("bench.ny", &s.ny, "cells", extent, "rows of the grid that is timed");
  key("bench.nx", &s.nx, "cells", extent, "columns of the grid that is timed");
  key("bench.inputs", &s.inputs, "channels", {.low = 1, .high = 1024}, "input channels of the network");
  key("bench.samples", &s.samples, "samples", {.low = 1, .high = 65536},
      "samples of a replica in a timed step; parallel.stages needs one for each stage");
  key("bench.rounds", &s.rounds, "rounds", positive, "repetitions, all contenders in turn");
  key("bench.training", &s.training, "", {},
      "time training steps, too; false for grids of which only a forecast fits in memory");
  key("bench.ranks", &s.ranks, "ranks", positive, "rank counts of the scaling tables; empty = no tables");
  key("bench.output", &s.output, "", {.not_empty = true}, "file of the results (JSON)");
}

void declare(SimulateSettings& s, const Declare& key) {
  const Limits extent{.low = 16, .high = 65536}, share{.low = 0, .high = 0.9};
  key("simulate.output", &s.output, "", {.not_empty = true}, "archive to write");
  key("simulate.ny", &s.ny, "cells", extent, "rows");
  key("simulate.nx", &s.nx, "cells", extent, "columns");
  key("simulate.cell_km", &s.cell_km, "km", {.low = 1, .high = 200}, "width of a cell");
  key("simulate.from", &s.from, "UTC", {.not_empty = true, .time = true}, "time of the first frame");
  key("simulate.days", &s.days, "days", {.low = 0, .high = 3660, .above_low = true},
      "length after the spin-up");
  key("simulate.frame_minutes", &s.frame_minutes, "min", {.low = 1, .high = 1440}, "spacing of the frames");
  key("simulate.seed", &s.seed, "", {.low = 0}, "of the initial state and the noise");
  key("simulate.noise_kelvin", &s.noise_kelvin, "K", {.low = 0, .high = 50},
      "noise of brightness temperatures");
  key("simulate.missing_frames", &s.missing_frames, "1", share, "share of frames left out");
  key("simulate.missing_lines", &s.missing_lines, "1", share, "share of image lines lost");
}

void declare(PrepareSettings& s, const Declare& key) {
  const Limits time{.time = true}, latitude{.low = -90, .high = 90}, longitude{.low = -180, .high = 540};
  key("prepare.inputs", &s.inputs, "", {},
      "raw satellite and precipitation files, or globs, of any known format");
  key("prepare.output", &s.output, "", {.not_empty = true},
      "archive to write; one that is there is gone on with");
  key("prepare.south", &s.south, "degrees", latitude, "southern edge of the grid");
  key("prepare.north", &s.north, "degrees", latitude, "northern edge of the grid");
  key("prepare.west", &s.west, "degrees", longitude, "western edge of the grid");
  key("prepare.east", &s.east, "degrees", longitude, "eastern edge of the grid; above the western one");
  key("prepare.cell_degrees", &s.cell_degrees, "degrees", {.low = 0.01, .high = 10},
      "height and width of a cell; not finer than the images' pixels");
  key("prepare.from", &s.range.from, "UTC", time, "first time of the archive; empty = open");
  key("prepare.to", &s.range.to, "UTC", time, "end of its times, excluded; empty = open");
  key("prepare.frame_minutes", &s.frame_minutes, "min", {.low = 1, .high = 1440},
      "spacing of the frames; rain is the mean over the interval that ends at its frame");
  key("prepare.tolerance_minutes", &s.tolerance_minutes, "min", {.low = 0, .high = 720},
      "how far a raw frame may lie from a regular time; below half the spacing");
}

// ---- Limits -----------------------------------------------------------------------------------------------

/// The limits in words, empty when there are none: "1 to 96", "above 0, ascending", "start | end".
std::string describe(const Limits& limits) {
  std::vector<std::string> parts;
  const bool low = std::isfinite(limits.low), high = std::isfinite(limits.high);
  if (low && high)
    parts.push_back(fmt::format("{}{} to {}", limits.above_low ? "above " : "", limits.low, limits.high));
  else if (low)
    parts.push_back(fmt::format("{} {}", limits.above_low ? "above" : "at least", limits.low));
  if (limits.multiple > 1) parts.push_back(fmt::format("multiples of {}", limits.multiple));
  if (limits.ascending) parts.push_back("ascending");
  if (!limits.words.empty()) parts.push_back(fmt::format("{}", fmt::join(limits.words, " | ")));
  if (limits.time) parts.push_back("YYYY-MM-DD or YYYY-MM-DDTHH:MM");
  if (limits.not_empty) parts.push_back("not empty");
  return fmt::format("{}", fmt::join(parts, ", "));
}

/// The shape of a time alone; whether the day exists is checked where times are computed with.
bool looks_like_time(const std::string& text) {
  static constexpr std::string_view pattern = "dddd-dd-ddTdd:dd:dd";
  std::string_view body = text;
  if (body.ends_with('Z')) body.remove_suffix(1);
  if (body.size() != 10 && body.size() != 16 && body.size() != 19) return false;
  for (std::size_t i = 0; i < body.size(); ++i) {
    const char want = pattern[i], is = body[i];
    if (want == 'd' ? is < '0' || is > '9' : want == 'T' ? is != 'T' && is != ' ' : is != want) return false;
  }
  return true;
}

bool within(double value, const Limits& limits) {
  return value <= limits.high && (limits.above_low ? value > limits.low : value >= limits.low);
}
bool satisfies(std::int64_t value, const Limits& limits) {
  return within(static_cast<double>(value), limits) && value % limits.multiple == 0;
}
bool satisfies(double value, const Limits& limits) {
  return within(value, limits);
}
bool satisfies(bool, const Limits&) {
  return true;
}
bool satisfies(const std::vector<LatLon>&, const Limits&) {
  return true; // the grid decides
}
bool satisfies(const std::string& value, const Limits& limits) {
  if (limits.not_empty && value.empty()) return false;
  if (!limits.words.empty() && std::ranges::find(limits.words, value) == limits.words.end()) return false;
  return !limits.time || value.empty() || looks_like_time(value);
}
template <class T> bool satisfies(const std::vector<T>& values, const Limits& limits) {
  if (limits.not_empty && values.empty()) return false;
  if (limits.ascending && std::ranges::adjacent_find(values, std::greater_equal{}) != values.end())
    return false;
  return std::ranges::all_of(values, [&](const T& value) { return satisfies(value, limits); });
}
bool satisfies(const std::map<std::string, double>& values, const Limits& limits) {
  return std::ranges::all_of(values, [&](const auto& pair) { return satisfies(pair.second, limits); });
}

// ---- Values to YAML ---------------------------------------------------------------------------------------

std::string yaml(std::int64_t value) {
  return std::to_string(value);
}
std::string yaml(double value) {
  return fmt::format("{}", value);
} // the shortest text that reads back the same
std::string yaml(bool value) {
  return value ? "true" : "false";
}
std::string yaml(const std::string& value) {
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\')
      out.append({'\\', c});
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", c);
    else
      out += c;
  }
  return out + '"';
}
std::string yaml(const LatLon& value) {
  return fmt::format("[{}, {}]", value.latitude, value.longitude);
}
template <class T> std::string yaml(const std::vector<T>& values) {
  std::vector<std::string> items;
  for (const T& value : values) items.push_back(yaml(value));
  return fmt::format("[{}]", fmt::join(items, ", "));
}
std::string yaml(const std::map<std::string, double>& values) {
  std::vector<std::string> items;
  for (const auto& [name, value] : values) items.push_back(yaml(name) + ": " + yaml(value));
  return fmt::format("{{{}}}", fmt::join(items, ", "));
}

struct TypeName {
  const char* operator()(const std::int64_t*) const { return "whole number"; }
  const char* operator()(const double*) const { return "number"; }
  const char* operator()(const bool*) const { return "true or false"; }
  const char* operator()(const std::string*) const { return "text"; }
  const char* operator()(const std::vector<std::int64_t>*) const { return "list of whole numbers"; }
  const char* operator()(const std::vector<double>*) const { return "list of numbers"; }
  const char* operator()(const std::vector<std::string>*) const { return "list of texts"; }
  const char* operator()(const std::vector<LatLon>*) const { return "list of [latitude, longitude]"; }
  const char* operator()(const std::map<std::string, double>*) const { return "NAME: NUMBER pairs"; }
};

} // namespace

std::vector<Key> declare_keys(Settings& s) {
  std::vector<Key> keys;
  const Declare key(keys);
  declare(s.data, key);
  declare(s.grid, key);
  declare(s.target, key);
  declare(s.model, key);
  declare(s.parallel, key);
  declare(s.train, key);
  declare(s.forecast, key);
  declare(s.verify, key);
  declare(s.bench, key);
  declare(s.simulate, key);
  declare(s.prepare, key);
  return keys;
}

bool is_allowed(const Key& key) {
  return std::visit([&](const auto* target) { return satisfies(*target, key.limits); }, key.target);
}

std::string allowed_values(const Key& key) {
  return describe(key.limits);
}

std::string type_name(const Key& key) {
  return std::visit(TypeName{}, key.target);
}

std::string yaml_value(const Key& key) {
  return std::visit([](const auto* target) { return yaml(*target); }, key.target);
}

} // namespace pluvia
