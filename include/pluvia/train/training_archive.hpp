#pragma once
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/data/recent_weather.hpp"
#include "pluvia/data/sampler.hpp"
#include "pluvia/data/time_spans.hpp"

namespace pluvia {

/// What a training takes from which archive, and from when. A plain value, the same on every rank.
struct TrainingArchive {
  SampleRule rule;
  RecentWeatherRule recent;
  std::vector<TimeSpan> train, validate;
  ArchiveIndex index;
};

/// Reads nothing but the archive's index. Collective. Throws a usage Error when the settings name no ranges,
/// or leave nothing to train on, and Errors as make_sample_rule and index_archive do.
TrainingArchive open_training_archive(const Communicator& world, const Settings& settings);

} // namespace pluvia
