#pragma once
// What attention and its gradients are computed with.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"
#include "pluvia/ops/attention.hpp"

namespace pluvia::lanes16 {

// Sixteen cells are worked on at once, one per lane, so that every sum over channels or keys runs down a lane
// in its fixed order, and exponentials and normalisers are vector operations. Cells that attend to cells
// around them form a patch, whose lanes share one list of keys: the union of their windows, with minus
// infinity added to the score where a key is outside a lane's own. What is masked adds exact zeros, so the
// bits depend neither on how cells are grouped nor on the vector width.
using simd::Vec;

constexpr int lanes = 16;
constexpr float score_scale = 0.25F; // 1 / sqrt(head_channels); a power of two, so it may be applied anywhere
constexpr float masked = -std::numeric_limits<float>::infinity();

struct alignas(64) Lanes {
  float v[lanes];
};
/// The channels of one head in sixteen cells, channels outermost.
struct Block {
  Lanes c[head_channels];
};

/// Sixteen cells of a tile; lanes past the last repeat it, and their results are dropped.
struct Patch {
  int n = 0;
  Index y[lanes], x[lanes];
  Patch(Index y0, Index x0, Index height, Index width, const Shape& tile) {
    for (Index dy = 0; dy < height && y0 + dy < tile.y; ++dy)
      for (Index dx = 0; dx < width && x0 + dx < tile.x; ++dx, ++n) y[n] = y0 + dy, x[n] = x0 + dx;
    for (int i = n; i < lanes; ++i) y[i] = y[n - 1], x[i] = x[n - 1];
  }
  Index offset(const Tensor& a, int lane) const { return y[lane] * a.stride_y() + x[lane] * a.stride_x(); }
};
constexpr Index patch_height = 4, patch_width = 4; // square: the smallest union of windows around

/// The same of one row.
struct Strip {
  int n;
  Index y, x;
  Strip(Index row, Index first, const Shape& tile)
      : n(static_cast<int>(std::min<Index>(lanes, tile.x - first))), y(row), x(first) {}
  Index offset(const Tensor& a, int lane) const {
    return y * a.stride_y() + (x + std::min(lane, n - 1)) * a.stride_x();
  }
};

/// Asks for the strip after the one whose first cell is `cell`: of many frames, each read or written in short
/// pieces, no prefetcher keeps track.
template <bool written> void prefetch_next(const float* cell, const Tensor& a) {
  for (int i = lanes; i < 2 * lanes; ++i) __builtin_prefetch(cell + i * a.stride_x(), written);
}

template <class Cells>
Block gather(const Tensor& a, Index b, Index t, const Cells& of, Index channel, float factor = 1.0F) {
  const float* const from = a.cell(b, t, 0, 0) + channel;
  simd::Float16 cells[lanes];
  for (int i = 0; i < lanes; ++i) std::memcpy(&cells[i], from + of.offset(a, i), sizeof cells[i]);
  if constexpr (std::is_same_v<Cells, Strip>) prefetch_next<false>(from + of.offset(a, 0), a);
  simd::turn(cells);
  Block block;
  for (int c = 0; c < head_channels; ++c) {
    cells[c] *= factor;
    std::memcpy(block.c[c].v, &cells[c], sizeof cells[c]);
  }
  return block;
}

inline Block repeat(const float* channels, float factor) {
  Block block;
  for (int c = 0; c < head_channels; ++c)
    for (int i = 0; i < lanes; ++i) block.c[c].v[i] = factor * channels[c];
  return block;
}

template <class Cells>
void scatter(const Block& block, const Lanes& factor, Tensor& a, Index b, Index t, const Cells& of,
             Index channel) {
  simd::Float16 cells[lanes], factors;
  std::memcpy(&factors, factor.v, sizeof factors);
  for (int c = 0; c < head_channels; ++c) {
    std::memcpy(&cells[c], block.c[c].v, sizeof cells[c]);
    cells[c] *= factors;
  }
  simd::turn(cells);
  float* const to = a.cell(b, t, 0, 0) + channel;
  for (int i = 0; i < of.n; ++i) std::memcpy(to + of.offset(a, i), &cells[i], sizeof cells[i]);
  if constexpr (std::is_same_v<Cells, Strip>) prefetch_next<true>(to + of.offset(a, 0), a);
}

template <class Cells> Lanes gather_value(const Tensor& a, Index b, Index t, const Cells& of, Index channel) {
  const float* const from = a.cell(b, t, 0, 0) + channel;
  Lanes out;
  for (int i = 0; i < lanes; ++i) out.v[i] = from[of.offset(a, i)];
  return out;
}
template <class Cells>
void scatter_value(const Lanes& value, Tensor& a, Index b, Index t, const Cells& of, Index channel) {
  float* const to = a.cell(b, t, 0, 0) + channel;
  for (int i = 0; i < of.n; ++i) to[of.offset(a, i)] = value.v[i];
}

constexpr Lanes all_lanes(float value) {
  Lanes out{};
  for (float& v : out.v) v = value;
  return out;
}

/// out[j] = sum over channels of a b_j, for n cells b_j that all lanes share.
inline void products(const Block& a, const float* b, Index stride, Index n, Lanes* out) {
  for (int part = 0; part < lanes; part += simd::width) {
    Vec r[head_channels];
    for (int c = 0; c < head_channels; ++c) r[c] = Vec::load(a.c[c].v + part);
    for (Index j = 0; j < n; ++j) {
      const float* channels = b + j * stride;
      Vec sum = Vec::zero();
      for (int c = 0; c < head_channels; ++c) sum = fma(r[c], Vec::broadcast(channels[c]), sum);
      sum.store(out[j].v + part);
    }
  }
}

/// a += sum over j of w_j b_j, for n cells b_j that all lanes share.
inline void add_weighted(Block& a, const Lanes* w, const float* b, Index stride, Index n) {
  for (int part = 0; part < lanes; part += simd::width) {
    Vec sum[head_channels];
    for (int c = 0; c < head_channels; ++c) sum[c] = Vec::load(a.c[c].v + part);
    for (Index j = 0; j < n; ++j) {
      const float* channels = b + j * stride;
      const Vec weight = Vec::load(w[j].v + part);
      for (int c = 0; c < head_channels; ++c) sum[c] = fma(weight, Vec::broadcast(channels[c]), sum[c]);
    }
    for (int c = 0; c < head_channels; ++c) sum[c].store(a.c[c].v + part);
  }
}

/// The same where every lane has cells of its own.
inline void products(const Block& a, const Block* b, Index n, Lanes* out) {
  for (int part = 0; part < lanes; part += simd::width) {
    Vec r[head_channels];
    for (int c = 0; c < head_channels; ++c) r[c] = Vec::load(a.c[c].v + part);
    for (Index j = 0; j < n; ++j) {
      Vec sum = Vec::zero();
      for (int c = 0; c < head_channels; ++c) sum = fma(r[c], Vec::load(b[j].c[c].v + part), sum);
      sum.store(out[j].v + part);
    }
  }
}
inline void add_weighted(Block& a, const Lanes* w, Index stride, const Block* b, Index n) {
  for (int part = 0; part < lanes; part += simd::width) {
    Vec sum[head_channels];
    for (int c = 0; c < head_channels; ++c) sum[c] = Vec::load(a.c[c].v + part);
    for (Index j = 0; j < n; ++j) {
      const Vec weight = Vec::load(w[j * stride].v + part);
      for (int c = 0; c < head_channels; ++c) sum[c] = fma(weight, Vec::load(b[j].c[c].v + part), sum[c]);
    }
    for (int c = 0; c < head_channels; ++c) sum[c].store(a.c[c].v + part);
  }
}

/// Turns n scores into weights exp(s - max) in place; returns the logarithm of what they add up to, and the
/// inverse of that.
struct Normaliser {
  Lanes log_sum, inverse;
};
inline Normaliser softmax(Lanes* s, Index n) {
  Lanes top = s[0], sum = all_lanes(0.0F);
  for (Index j = 1; j < n; ++j)
    for (int i = 0; i < lanes; ++i) top.v[i] = s[j].v[i] > top.v[i] ? s[j].v[i] : top.v[i];
  for (Index j = 0; j < n; ++j)
    for (int i = 0; i < lanes; ++i) sum.v[i] += s[j].v[i] = exp_f32(s[j].v[i] - top.v[i]);
  Normaliser out;
  for (int i = 0; i < lanes; ++i) {
    out.log_sum.v[i] = top.v[i] + log_f32(sum.v[i]);
    out.inverse.v[i] = 1.0F / sum.v[i];
  }
  return out;
}

/// Scores and products with the output's gradient become weights p and gradients of the scores, in place.
inline void pull_scores(Lanes& s, Lanes& dp, const Lanes& log_sum, const Lanes& delta) {
  for (int i = 0; i < lanes; ++i) {
    s.v[i] = exp_f32(s.v[i] - log_sum.v[i]);
    dp.v[i] = s.v[i] * (dp.v[i] - delta.v[i]);
  }
}

/// Cells that the lanes of a patch share, relative to the tile: the union of their spans on both axes, and
/// what is added to the scores of each row and column.
class Shared {
public:
  using Spans = Span (AxisWindow::*)(Index) const; ///< keys of a query, or queries of a key
  Shared(const Patch& patch, const AttentionWindow& window, TileOrigin origin, Spans spans)
      : y_(patch.y, window.y, origin.y, spans), x_(patch.x, window.x, origin.x, spans) {}

  Span y() const { return y_.all; }
  Span x() const { return x_.all; }
  Index width() const { return x_.all.to - x_.all.from; }
  Index cells() const { return (y_.all.to - y_.all.from) * width(); }
  void mask(Lanes* scores, Index row) const {
    const Lanes& r = y_.bias[static_cast<std::size_t>(row - y_.all.from)];
    for (Index j = 0; j < width(); ++j)
      for (int i = 0; i < lanes; ++i) scores[j].v[i] += r.v[i] + x_.bias[static_cast<std::size_t>(j)].v[i];
  }

private:
  struct Axis {
    Span all;
    std::vector<Lanes> bias;
    Axis(const Index* cells, const AxisWindow& window, Index origin, Spans spans) {
      const auto span = [&](int lane) { return shifted((window.*spans)(cells[lane] + origin), -origin); };
      all = span(0);
      for (int i = 1; i < lanes; ++i) all = {std::min(all.from, span(i).from), std::max(all.to, span(i).to)};
      bias.assign(static_cast<std::size_t>(all.to - all.from), all_lanes(masked));
      for (int i = 0; i < lanes; ++i)
        for (Index j = span(i).from; j < span(i).to; ++j)
          bias[static_cast<std::size_t>(j - all.from)].v[i] = 0.0F;
    }
  };
  Axis y_, x_;
};

/// The frames that a query of the tile's frame t sees, relative to the tile's first of keys.
inline Span key_frames(const AttentionWindow& window, TileOrigin origin, Index t) {
  return shifted(window.t.keys(t + origin.query_frame), -origin.key_frame);
}

inline Span frames_at_hand(const Tensor& a) {
  return {-a.margin().t_lo, a.shape().t + a.margin().t_hi};
}

inline bool stays_home(const AttentionWindow& window) {
  return window.y.kind == AxisWindow::Kind::own && window.x.kind == AxisWindow::Kind::own;
}

/// Leads ask alike in all cells: told by the window, for on a tile of one cell shapes tell nothing.
inline bool shared_queries(const AttentionWindow& window) {
  return window.t.kind == AxisWindow::Kind::all;
}

/// Of the tile's frame t; those of all leads are at hand where cells share them.
template <class Cells>
Block gather_query(const Tensor& q, bool shared, Index b, Index t, TileOrigin origin, const Cells& of,
                   Index channel) {
  return shared ? repeat(q.cell(0, t + origin.query_frame, 0, 0) + channel, score_scale)
                : gather(q, b, t, of, channel, score_scale);
}

/// Calls f(b, t, row of patches, patch) for all patches of a tile in all frames.
template <class F> void for_patches(const Shape& s, F&& f) {
  const Index rows = (s.y + patch_height - 1) / patch_height;
  parallel_for(s.b * s.t * rows, [&](Index task) {
    for (Index x = 0; x < s.x; x += patch_width)
      f(task / rows / s.t, task / rows % s.t, task % rows,
        Patch(task % rows * patch_height, x, patch_height, patch_width, s));
  });
}

/// Calls f(b, row, strip) for sixteen neighbouring cells at a time, where f = make() for each row: it may
/// hold room to work in.
template <class Make> void for_strips(const Shape& s, Make&& make) {
  parallel_for(s.b * s.y, [&](Index task) {
    auto f = make();
    for (Index x = 0; x < s.x; x += lanes) f(task / s.y, task % s.y, Strip(task % s.y, x, s));
  });
}

/// One head of a strip in all frames that are at hand, also those in the margins.
inline void gather_frames(const Tensor& a, Index b, const Strip& strip, Index channel,
                          std::vector<Block>& out) {
  const Span held = frames_at_hand(a);
  out.resize(static_cast<std::size_t>(held.size()));
  for (Index t = held.from; t < held.to; ++t)
    out[static_cast<std::size_t>(t - held.from)] = gather(a, b, t, strip, channel);
}

} // namespace pluvia::lanes16
