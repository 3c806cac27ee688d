#include "pluvia/nn/pieces.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

#include "pluvia/core/error.hpp"
#include "pluvia/ops/attention.hpp"

namespace pluvia {

namespace {

/// Levels are counted from 0; negative ones from the coarsest.
bool has_attention(const ModelSettings& settings, int level) {
  const auto n = static_cast<std::int64_t>(settings.channels.size());
  return std::ranges::any_of(settings.attention.levels, [&](std::int64_t wanted) {
    return (wanted < 0 ? wanted + n : wanted) == level;
  });
}

} // namespace

std::vector<Piece> list_pieces(const ModelSettings& settings) {
  const auto n = static_cast<int>(settings.channels.size());
  std::vector<Piece> out;
  for (int l = 0; l < n; ++l) {
    out.push_back({Piece::Kind::encode, l});
    if (has_attention(settings, l)) out.push_back({Piece::Kind::attend, l});
    out.push_back({Piece::Kind::skip, l});
  }
  for (int l = n - 2; l >= 0; --l) out.push_back({Piece::Kind::decode, l});
  return out;
}

std::vector<int> shared_levels(const ModelSettings& settings, int ranks) {
  std::vector<int> out;
  for (std::size_t level = 0; level < settings.channels.size(); ++level)
    if (settings.channels[level] / head_channels >= ranks) out.push_back(static_cast<int>(level));
  return out;
}

void require_shares(const ModelSettings& settings, int ranks) {
  if (ranks == 1 || !shared_levels(settings, ranks).empty()) return;
  fail(ExitCode::usage, "The channels cannot be shared out over parallel.tensor = " + std::to_string(ranks),
       "each rank needs " + std::to_string(head_channels) + ", and no level has more than " +
           std::to_string(*std::ranges::max_element(settings.channels)),
       "Lower parallel.tensor, or widen model.channels.");
}

} // namespace pluvia
