#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/data/recent_weather.hpp"
#include "pluvia/model/climatology.hpp"
#include "pluvia/model/logistic_regression.hpp"

namespace pluvia {

// One logistic regression per lead time, pooled over the cells of the domain: what the seven numbers of
// RecentWeather say beyond climatology. verify scores it as a reference, and with model.base: regression the
// network's logits start from it.

/// The cells of one lead time that it is fitted on.
struct PooledRows {
  RegressionRows regression;
  std::vector<std::int8_t> persisted; ///< class of the last window before each row; -1 = unknown
};

/// By lead, about 100 000 cells and at most 240 initial times of the training spans, chosen by
/// counter-based random numbers: the same cells on every tiling, on the rank that holds them. Each sees the
/// climatology without its own neighbourhood in time. `reader` must cover the climatology's tile with
/// RecentWeather::reach more cells inside the domain; `area`: relative area of the tile's cells. Ranks with the
/// same tile each take a share of the times. Collective.
/// Throws a data Error when no initial time of the spans has a complete window.
std::vector<PooledRows> pooled_rows(const Communicator& comm, const Log& log, ArchiveReader& reader,
                                    const RecentWeatherRule& rule, const Climatology& climatology,
                                    const std::vector<double>& leads_hours, std::span<const float> area,
                                    std::span<const TimeSpan> spans, Share share = {});

/// By lead. The same bits on any number of ranks. Collective.
std::vector<LogisticRegression> fit_pooled_regression(const Communicator& comm,
                                                      const std::vector<PooledRows>& rows);

/// The class probabilities [height x width x (K + 1)] of each lead that a network's logits start from, given
/// those of the climatology: differences of the regression's exceedances, none below 1e-5, scaled to one.
/// Local; each cell by itself.
std::vector<std::vector<float>> regression_base(const std::vector<LogisticRegression>& regressions,
                                                const RecentWeather& weather,
                                                const std::vector<std::vector<float>>& climatology);

/// JSON text that regressions_from_json reads back to the same regressions.
std::string to_json(const std::vector<LogisticRegression>& regressions);
/// Throws a data Error when the text is not that of `leads` regressions of `thresholds` each.
std::vector<LogisticRegression> regressions_from_json(const std::string& text, std::size_t leads,
                                                      std::size_t thresholds);

} // namespace pluvia
