#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pluvia {

// Everything a user can set, as plain values: the defaults stand here, and core/config.hpp declares each key
// once more with its unit, range and one line of meaning.

/// Half-open range of times, "YYYY-MM-DDTHH:MM" in UTC; empty = open.
struct TimeRange {
  std::string from, to;
  bool operator==(const TimeRange&) const = default;
};

struct DataSettings {
  std::vector<std::string> archive; ///< file names or globs
  TimeRange train, validate, test;
  std::vector<std::string> predictors; ///< variables the network sees; may include the target's past
  std::string target;                  ///< precipitation rate [mm h-1]
  std::string precip_label = "end";    ///< start | end: which end of its interval a rain time names
  std::map<std::string, double> latency_minutes; ///< how late a predictor arrives
  double cache_mib = 1024;                       ///< decoded frames kept per rank
  bool operator==(const DataSettings&) const = default;
};

struct GridSettings {
  std::string periodic_x = "auto"; ///< auto | yes | no
  bool operator==(const GridSettings&) const = default;
};

struct TargetSettings {
  std::vector<double> leads_hours{6, 12, 18, 24};
  double window_hours = 6;
  std::vector<double> thresholds_mm{0.2, 1, 5, 10, 25, 50};
  bool operator==(const TargetSettings&) const = default;
};

struct AttentionSettings {
  std::string form = "neighbourhood";       ///< neighbourhood | windowed | joint
  std::vector<std::int64_t> levels{-2, -1}; ///< negative: counted from the coarsest
  std::int64_t radius = 3;                  ///< cells, neighbourhood and joint
  std::int64_t window = 8;                  ///< cells, windowed
  std::string global = "none";              ///< none | linear | softmax: attention to all cells
  bool operator==(const AttentionSettings&) const = default;
};

struct ModelSettings {
  std::int64_t history = 6;  ///< frames in
  double frame_minutes = 60; ///< spacing of the frames
  std::vector<std::int64_t> channels{16, 32, 64};
  std::int64_t input_merge = 1; ///< 1 | 2: cells merged before the first level, each way
  AttentionSettings attention;
  std::string temporal_core = "attention"; ///< attention | recurrent: beside spatial attention
  std::int64_t skip_radius = 0;     ///< cells around a cell that a lead-time query looks at
  std::string head_init = "zero";   ///< zero | random
  std::string base = "climatology"; ///< climatology | regression: what the logits start from
  bool operator==(const ModelSettings&) const = default;
};

struct ParallelSettings {
  std::string device = "auto";     ///< auto | cpu | gpu | pretend
  std::int64_t replicas = 1;       ///< in training
  std::int64_t stages = 1;         ///< of the network, in training
  std::int64_t tensor = 1;         ///< ranks that share out channels
  std::int64_t time = 1;           ///< ranks that share a tile
  std::int64_t rows = 0, cols = 0; ///< 0 = automatic
  std::int64_t block = 32;         ///< cells
  std::int64_t block_frames = 0;   ///< 0 = all of them
  std::int64_t threads = 0;        ///< per rank; 0 = the node's cores shared out over its ranks
  bool operator==(const ParallelSettings&) const = default;
};

struct TrainSettings {
  std::int64_t steps = 400;
  std::int64_t batch = 4;
  double learning_rate = 2e-3;
  std::int64_t warmup = 50;
  double weight_decay = 0.01;
  double clip_norm = 1.0;
  double dropout = 0;              ///< share of the skips' channels
  double climatology_dropout = 0;  ///< share of days, at most
  double frame_dropout = 0;        ///< share of the predictors' frames
  double brightness_jitter_kelvin = 0;
  std::string precision = "auto";  ///< auto | f32 | bf16
  std::string keep = "everything"; ///< everything | blocks
  bool exact = false;              ///< the same bits on every process grid
  bool graph = false;              ///< steps on accelerators are recorded once and replayed
  std::int64_t seed = 1;
  std::string output = "run";
  std::string from; ///< checkpoint to go on from, or "latest"
  std::int64_t checkpoint_every = 200;
  std::int64_t validate_every = 50;
  std::int64_t validate_samples = 8;
  bool operator==(const TrainSettings&) const = default;
};

/// A point on the Earth [degrees].
struct LatLon {
  double latitude = 0, longitude = 0;
  bool operator==(const LatLon&) const = default;
};

struct ForecastSettings {
  std::vector<std::string> checkpoint; ///< several = their mean; empty = the best one in train.output
  std::string init; ///< TIME | T1,T2,... | T1/T2/PT6H | latest; empty = the whole test range
  std::string output = "forecasts";
  bool calibrate = true;
  bool write_logits = false;
  std::vector<LatLon> write_attention; ///< where; empty = nowhere
  bool operator==(const ForecastSettings&) const = default;
};

struct VerifySettings {
  std::string forecasts; ///< folder; empty = forecast.output
  std::string output = "scores";
  std::vector<std::string> merge; ///< score files of other runs, to add up instead
  bool operator==(const VerifySettings&) const = default;
};

struct BenchSettings {
  std::int64_t ny = 128, nx = 128, inputs = 6;
  std::int64_t samples = 1; ///< of a replica in a step
  std::int64_t rounds = 5;
  bool training = true;            ///< steps, too
  std::vector<std::int64_t> ranks; ///< of the scaling tables; empty = none
  std::string output = "bench.json";
  bool operator==(const BenchSettings&) const = default;
};

struct SimulateSettings {
  std::string output = "archive.nc";
  std::int64_t ny = 96, nx = 128;
  double cell_km = 20;
  std::string from = "2020-01-01T00:00";
  double days = 16;
  double frame_minutes = 60;
  std::int64_t seed = 1;
  double noise_kelvin = 0.5;
  double missing_frames = 0; ///< share of frames left out
  double missing_lines = 0;  ///< share of image lines lost
  bool operator==(const SimulateSettings&) const = default;
};

struct PrepareSettings {
  std::vector<std::string> inputs; ///< raw files or globs
  std::string output = "archive.nc";
  double south = 0, north = 0, west = 0, east = 0; ///< outer edges of the target grid [degrees]
  double cell_degrees = 0.1;
  TimeRange range; ///< of the archive's times; its keys are prepare.from and prepare.to
  double frame_minutes = 30;
  double tolerance_minutes = 5; ///< how far a frame may lie from a regular time
  bool operator==(const PrepareSettings&) const = default;
};

struct Settings {
  DataSettings data;
  GridSettings grid;
  TargetSettings target;
  ModelSettings model;
  ParallelSettings parallel;
  TrainSettings train;
  ForecastSettings forecast;
  VerifySettings verify;
  BenchSettings bench;
  SimulateSettings simulate;
  PrepareSettings prepare;
  bool operator==(const Settings&) const = default;
};

} // namespace pluvia
