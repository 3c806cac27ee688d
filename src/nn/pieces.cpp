#include "pluvia/nn/pieces.hpp"

#include <algorithm>
#include <cstdint>

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

} // namespace pluvia
