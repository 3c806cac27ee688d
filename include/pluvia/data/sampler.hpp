#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/core/tensor.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/data/time_spans.hpp"

namespace pluvia {

/// What a sample is made of, whatever the data: read from the settings, plain values.
struct SampleRule {
  std::vector<std::string> predictors;
  std::vector<Time> latency; ///< per predictor: newer frames than t0 - latency count as missing [s]
  Accumulation rain;         ///< of the target windows
  std::size_t history = 0;   ///< frames in
  Time frame_step = 0;       ///< [s]
  std::vector<Time> leads;   ///< [s]
  std::vector<double> thresholds_mm;

  int classes() const { return static_cast<int>(thresholds_mm.size()) + 1; }
  /// Input channels: predictors, their validity, cos(solar zenith), day of year (2), position (4), and the
  /// base's log-odds of the lowest threshold per lead.
  Index channels() const { return static_cast<Index>(2 * predictors.size() + 7 + leads.size()); }
};
/// Throws a usage Error when times do not fit together or names are missing.
SampleRule make_sample_rule(const Settings& settings);

/// Mean and standard deviation of each predictor over valid training cells (rain as log(1 + mm/h)).
struct Normalisation {
  std::vector<float> mean, deviation;
};

/// Initial times, every full hour, of which at least one window lies wholly in one of the spans. Spans must
/// be bounded.
std::vector<Time> initial_times(const SampleRule& rule, std::span<const TimeSpan> spans);

/// What befalls an imager and the way from it, drawn for a training sample: frames that do not arrive, of at
/// least one predictor with time not the newest, and an offset of all brightness temperatures (the predictors
/// with time but the target's past). A function of these numbers, the predictor and the frame's place in the
/// history alone, the same on every process grid.
struct Disturbance {
  double frame_dropout = 0;     ///< 0..1
  double brightness_jitter = 0; ///< deviation of the offset [K]
  std::uint64_t seed = 0, sample = 0;
};

/// The input of one forecast on one tile.
struct SampleInput {
  Tensor features;                   ///< [1, frames, Y, X, channels]
  std::vector<std::uint8_t> quality; ///< [Y x X], bits of input_quality of these frames
};
namespace input_quality {
constexpr std::uint8_t frame_missing = 1; ///< a whole frame of a predictor is not there
constexpr std::uint8_t cell_missing = 2;  ///< some frame has no value in this cell
} // namespace input_quality

/// Makes the samples of one tile from an archive. Local but for measure().
class Sampler {
public:
  Sampler(const ArchiveIndex& index, SampleRule rule, const Rect& tile, std::size_t cache_bytes);

  const SampleRule& rule() const { return rule_; }
  const ArchiveReader& reader() const { return reader_; }
  const Rect& tile() const { return reader_.rect(); }

  /// The normalisation over the frames in the spans, at most about 200 of them, evenly taken. Ranks with the
  /// same tile each read a share of them. The same bits on any number of ranks. Collective. Throws a data Error
  /// when a predictor has no valid cell at all.
  Normalisation measure(const Communicator& comm, std::span<const TimeSpan> spans, Share share = {});

  /// Features of some of the history's frames of the forecast that starts at `init`, given the class
  /// probabilities of each lead's window that the network corrects ([height x width x classes]), with the
  /// margins that it wants.
  SampleInput input(Time init, const Normalisation& normalisation,
                    const std::vector<std::vector<float>>& base, Margin margin, Span frames,
                    const Disturbance& disturbance = {});

  /// Classes of the rain in (init + lead - window, init + lead], [height x width]; -1 where unknown.
  std::vector<std::int8_t> observed(Time end);

private:
  std::vector<float> predictor(std::size_t p, Time time);
  /// Whether each frame of each predictor is lost, [predictors x history].
  std::vector<bool> lost_frames(const Disturbance& disturbance) const;
  ArchiveReader reader_;
  SampleRule rule_;
  std::vector<bool> has_time_; ///< per predictor
  // Per cell: sine and cosine of latitude and longitude, and the same of the position within the domain.
  std::vector<float> sin_lat_, cos_lat_, sin_lon_, cos_lon_;
  std::vector<float> position_; ///< [height x width x 4]
};

/// Logarithms of the class probabilities of each lead: [1, leads, Y, X, classes].
Tensor log_base(std::span<const std::vector<float>> base, const Rect& tile, int classes);

} // namespace pluvia
