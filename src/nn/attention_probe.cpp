#include "pluvia/nn/attention_probe.hpp"

#include <algorithm>
#include <span>

#include "pluvia/core/math.hpp"

namespace pluvia {

namespace {

AttentionProbe::Cell on_level(const AttentionProbe::Cell& cell, int level) {
  return {cell.y >> level, cell.x >> level};
}

bool holds(const Rect& tile, const AttentionProbe::Cell& cell) {
  return cell.y >= tile.y0 && cell.y < tile.y1 && cell.x >= tile.x0 && cell.x < tile.x1;
}

Index length(const Span& span) {
  return span.to - span.from;
}

/// Room for the weights of all cells, the same on every rank: zeros, to which owners add theirs.
AttentionMap empty_map(const std::vector<AttentionProbe::Cell>& cells, AttentionKind kind, int level,
                       const Shape& queries, Index channels, const AttentionWindow& window) {
  AttentionMap map{.kind = kind, .level = level, .rows = {}, .columns = {}, .weights = {}};
  map.queries = kind == AttentionKind::skip ? queries.t : 1;
  map.heads = channels / head_channels;
  map.frames = length(window.t.keys(queries.t - 1));
  for (const AttentionProbe::Cell& cell : cells) {
    map.rows.push_back(window.y.keys(cell.y >> level));
    map.columns.push_back(window.x.keys(cell.x >> level));
    map.height = std::max(map.height, length(map.rows.back()));
    map.width = std::max(map.width, length(map.columns.back()));
  }
  map.weights.assign(
      cells.size() * static_cast<std::size_t>(map.queries * map.heads * map.frames * map.height * map.width),
      0.0F);
  return map;
}

} // namespace

AttentionView watch(AttentionProbe* probe, AttentionKind kind, int level) {
  if (!probe) return {};
  return [probe, kind, level](const Tensor& q, const Tensor& k, const AttentionWindow& window,
                              TileOrigin origin) {
    const Shape s = k.shape();
    AttentionMap map = empty_map(probe->cells, kind, level, q.shape(), s.c, window);
    const Rect tile{origin.y, origin.y + s.y, origin.x, origin.x + s.x};
    for (std::size_t i = 0; i < probe->cells.size(); ++i) {
      const AttentionProbe::Cell cell = on_level(probe->cells[i], level);
      if (!holds(tile, cell)) continue;
      const Index height = length(map.rows[i]), width = length(map.columns[i]);
      const Index planes = map.heads * map.frames;
      for (Index query = 0; query < map.queries; ++query) {
        const std::vector<float> weights = attention_weights(
            q, k, window, origin, q.shape().t - map.queries + query, cell.y - origin.y, cell.x - origin.x);
        for (Index plane = 0; plane < planes; ++plane)
          for (Index y = 0; y < height; ++y)
            std::copy_n(
                weights.begin() + (plane * height + y) * width, width,
                map.weights.begin() +
                    (((static_cast<Index>(i) * map.queries + query) * planes + plane) * map.height + y) *
                        map.width);
      }
    }
    probe->maps.push_back(std::move(map));
  };
}

void note_gate(AttentionProbe& probe, int level, const Tensor& gate, const Rect& tile) {
  if (gate.device() == Device::gpu) return note_gate(probe, level, gate.to(Device::host), tile);
  AttentionGate out{level, std::vector<float>(probe.cells.size(), 0.0F)};
  const Shape s = gate.shape();
  for (std::size_t i = 0; i < probe.cells.size(); ++i) {
    const AttentionProbe::Cell cell = on_level(probe.cells[i], level);
    if (!holds(tile, cell)) continue;
    const float* values = gate.cell(0, s.t - 1, cell.y - tile.y0, cell.x - tile.x0);
    double sum = 0;
    for (Index c = 0; c < s.c; ++c) sum += static_cast<double>(sigmoid(values[c]));
    out.spatial_share[i] = static_cast<float>(sum / static_cast<double>(s.c));
  }
  probe.gates.push_back(std::move(out));
}

void gather(const Communicator& comm, AttentionProbe& probe) {
  // Every cell has one owner, so sums add nothing but zeros to what it noted.
  for (AttentionMap& map : probe.maps) comm.all_reduce(std::span<float>(map.weights), Reduce::sum);
  for (AttentionGate& gate : probe.gates) comm.all_reduce(std::span<float>(gate.spatial_share), Reduce::sum);
}

} // namespace pluvia
