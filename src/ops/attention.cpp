#include "pluvia/ops/attention.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/simd.hpp"

namespace pluvia {

Span AxisWindow::keys(Index i) const {
  const Index width = std::min(2 * size + 1, extent);
  switch (kind) {
  case Kind::around: {
    const Index from = std::clamp<Index>(i - size, 0, extent - width);
    return {from, from + width};
  }
  case Kind::wrapped:
    return {i - (width - 1) / 2, i - (width - 1) / 2 + width};
  case Kind::block:
    return {i / size * size, std::min(i / size * size + size, extent)};
  case Kind::past:
    return {0, i + 1};
  case Kind::all:
    return {0, extent};
  default:
    return {i, i + 1};
  }
}

Span AxisWindow::queries(Index j) const {
  const Index width = std::min(2 * size + 1, extent);
  switch (kind) {
  case Kind::around: {
    // keys(i) rises with i: the first query whose window reaches j, and the first whose window starts past
    // it.
    const Index from = j < width ? 0 : j - (width - 1) + size;
    const Index to = j >= extent - width ? extent : j + size + 1;
    return {from, to};
  }
  case Kind::wrapped: {
    const Index before = (width - 1) / 2;
    return {j - (width - 1 - before), j + before + 1};
  }
  case Kind::block:
    return {j / size * size, std::min(j / size * size + size, extent)};
  case Kind::past:
    return {j, extent};
  case Kind::all:
    return {0, extent};
  default:
    return {j, j + 1};
  }
}

namespace {

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
};
constexpr Index patch_height = 4, patch_width = 4; // square: the smallest union of windows around

Block gather(const Tensor& a, Index b, Index t, const Patch& patch, Index channel, float factor = 1.0F) {
  simd::Float16 cells[lanes];
  for (int i = 0; i < lanes; ++i)
    std::memcpy(&cells[i], a.cell(b, t, patch.y[i], patch.x[i]) + channel, sizeof cells[i]);
  simd::turn(cells);
  Block block;
  for (int c = 0; c < head_channels; ++c) {
    cells[c] *= factor;
    std::memcpy(block.c[c].v, &cells[c], sizeof cells[c]);
  }
  return block;
}

Block repeat(const float* channels, float factor) {
  Block block;
  for (int c = 0; c < head_channels; ++c)
    for (int i = 0; i < lanes; ++i) block.c[c].v[i] = factor * channels[c];
  return block;
}

void scatter(const Block& block, const Lanes& factor, Tensor& a, Index b, Index t, const Patch& patch,
             Index channel) {
  simd::Float16 cells[lanes], factors;
  std::memcpy(&factors, factor.v, sizeof factors);
  for (int c = 0; c < head_channels; ++c) {
    std::memcpy(&cells[c], block.c[c].v, sizeof cells[c]);
    cells[c] *= factors;
  }
  simd::turn(cells);
  for (int i = 0; i < patch.n; ++i)
    std::memcpy(a.cell(b, t, patch.y[i], patch.x[i]) + channel, &cells[i], sizeof cells[i]);
}

Lanes gather_value(const Tensor& a, Index b, Index t, const Patch& patch, Index channel) {
  Lanes out;
  for (int i = 0; i < lanes; ++i) out.v[i] = a.cell(b, t, patch.y[i], patch.x[i])[channel];
  return out;
}

constexpr Lanes all_lanes(float value) {
  Lanes out{};
  for (float& v : out.v) v = value;
  return out;
}

/// out[j] = sum over channels of a b_j, for n cells b_j that all lanes share.
void products(const Block& a, const float* b, Index stride, Index n, Lanes* out) {
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
void add_weighted(Block& a, const Lanes* w, const float* b, Index stride, Index n) {
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

/// The same where every lane has a cell of its own.
void products(const Block& a, const Block& b, Lanes* out) {
  for (int part = 0; part < lanes; part += simd::width) {
    Vec sum = Vec::zero();
    for (int c = 0; c < head_channels; ++c)
      sum = fma(Vec::load(a.c[c].v + part), Vec::load(b.c[c].v + part), sum);
    sum.store(out->v + part);
  }
}
void add_weighted(Block& a, const Lanes* w, const Block& b) {
  for (int part = 0; part < lanes; part += simd::width) {
    const Vec weight = Vec::load(w->v + part);
    for (int c = 0; c < head_channels; ++c)
      fma(weight, Vec::load(b.c[c].v + part), Vec::load(a.c[c].v + part)).store(a.c[c].v + part);
  }
}

/// Turns n scores into weights exp(s - max) in place; returns the logarithm of what they add up to, and the
/// inverse of that.
struct Normaliser {
  Lanes log_sum, inverse;
};
Normaliser softmax(Lanes* s, Index n) {
  Lanes top = s[0], sum = all_lanes(0.0F);
  for (Index j = 1; j < n; ++j)
    for (int i = 0; i < lanes; ++i) top.v[i] = s[j].v[i] > top.v[i] ? s[j].v[i] : top.v[i];
  for (Index j = 0; j < n; ++j)
    for (int i = 0; i < lanes; ++i) sum.v[i] += s[j].v[i] = exp_f32(s[j].v[i] - top.v[i]);
  Normaliser out;
  for (int i = 0; i < lanes; ++i) {
    out.log_sum.v[i] = top.v[i] + std::log(sum.v[i]);
    out.inverse.v[i] = 1.0F / sum.v[i];
  }
  return out;
}

/// Scores and products with the output's gradient become weights p and gradients of the scores, in place.
void pull_scores(Lanes& s, Lanes& dp, const Lanes& log_sum, const Lanes& delta) {
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
Span key_frames(const AttentionWindow& window, TileOrigin origin, Index t) {
  return shifted(window.t.keys(t + origin.query_frame), -origin.key_frame);
}

Span frames_at_hand(const Tensor& a) {
  return {-a.margin().t_lo, a.shape().t + a.margin().t_hi};
}

bool stays_home(const AttentionWindow& window) {
  return window.y.kind == AxisWindow::Kind::own && window.x.kind == AxisWindow::Kind::own;
}

bool shared_queries(const Tensor& q, const Tensor& o) {
  return q.shape().y == 1 && !(q.shape() == o.shape());
}

/// Of the tile's frame t; those of all leads are at hand where cells share them.
Block gather_query(const Tensor& q, bool shared, Index b, Index t, TileOrigin origin, const Patch& patch,
                   Index channel) {
  return shared ? repeat(q.cell(0, t + origin.query_frame, 0, 0) + channel, score_scale)
                : gather(q, b, t, patch, channel, score_scale);
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

/// Calls f(b, row, patch) for sixteen neighbouring cells at a time.
template <class F> void for_strips(const Shape& s, F&& f) {
  parallel_for(s.b * s.y, [&](Index task) {
    for (Index x = 0; x < s.x; x += lanes) f(task / s.y, task % s.y, Patch(task % s.y, x, 1, lanes, s));
  });
}

/// One head of a strip in all frames that are at hand, also those in the margins.
std::vector<Block> gather_frames(const Tensor& a, Index b, const Patch& patch, Index channel) {
  const Span held = frames_at_hand(a);
  std::vector<Block> out;
  out.reserve(static_cast<std::size_t>(held.size()));
  for (Index t = held.from; t < held.to; ++t) out.push_back(gather(a, b, t, patch, channel));
  return out;
}

/// Queries that all cells share: their gradients add up over cells, in the order of rows and lanes, or, where
/// order-free sums are given, in any.
class SharedQueryGradient {
public:
  /// Of the leads of a tile s among those of q, with so many rows to add up one by one. Idle unless shared.
  SharedQueryGradient(bool shared, const Shape& s, const Tensor& q, TileOrigin origin, Index rows,
                      OrderFreeSums* sums)
      : samples_(shared ? s.b : 0), rows_(rows), leads_(q.shape().t), channels_(s.c),
        first_(origin.query_frame), sums_(sums) {
    const auto values = static_cast<std::size_t>(leads_ * channels_),
               parts = static_cast<std::size_t>(samples_ * rows_);
    if (sums)
      free_.assign(parts, OrderFreeSums(values));
    else
      partial_.assign(parts * values, 0.0F);
  }
  void add(const Block& block, Index b, Index t, Index row, int n, Index channel) {
    const Index part = b * rows_ + row, at = (t + first_) * channels_ + channel;
    if (sums_) {
      OrderFreeSums& to = free_[static_cast<std::size_t>(part)];
      for (int i = 0; i < n; ++i) {
        float cell[head_channels];
        for (int c = 0; c < head_channels; ++c) cell[c] = score_scale * block.c[c].v[i];
        to.add(static_cast<std::size_t>(at), cell);
      }
      return;
    }
    float* to = partial_.data() + part * leads_ * channels_ + at;
    for (int c = 0; c < head_channels; ++c)
      for (int i = 0; i < n; ++i) to[c] += score_scale * block.c[c].v[i];
  }
  /// Zero for the leads of other tiles.
  void store(Tensor& dq) const {
    for (const OrderFreeSums& row : free_) sums_->add(row);
    if (sums_) return;
    dq.fill(0.0F);
    for (Index part = 0; part < samples_ * rows_; ++part)
      for (Index t = 0; t < leads_; ++t)
        for (Index c = 0; c < channels_; ++c)
          dq.cell(0, t, 0, 0)[c] += partial_[static_cast<std::size_t>((part * leads_ + t) * channels_ + c)];
  }

private:
  Index samples_, rows_, leads_, channels_, first_;
  OrderFreeSums* sums_;
  std::vector<float> partial_;      // of each row, [leads, C]
  std::vector<OrderFreeSums> free_; // the same
};

constexpr Lanes ones = all_lanes(1.0F), scales = all_lanes(score_scale);

// ---- Every cell attends to itself in other frames
// ----------------------------------------------------------

void attend_home(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
                 TileOrigin origin, Tensor& o, Tensor& log_sum) {
  const Shape& s = o.shape();
  const bool shared = shared_queries(q, o);
  const Span held = frames_at_hand(k);
  for_strips(s, [&](Index b, Index, const Patch& patch) {
    std::vector<Lanes> scores(static_cast<std::size_t>(held.size()));
    for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
      const auto keys = gather_frames(k, b, patch, channel), values = gather_frames(v, b, patch, channel);
      for (Index t = 0; t < s.t; ++t) {
        const Block query = gather_query(q, shared, b, t, origin, patch, channel);
        const Span frames = shifted(key_frames(window, origin, t), -held.from);
        const auto from = static_cast<std::size_t>(frames.from), to = static_cast<std::size_t>(frames.to);
        for (std::size_t j = from; j < to; ++j) products(query, keys[j], &scores[j]);
        const Normaliser norm = softmax(&scores[from], frames.size());
        Block out{};
        for (std::size_t j = from; j < to; ++j) add_weighted(out, &scores[j], values[j]);
        scatter(out, norm.inverse, o, b, t, patch, channel);
        for (int i = 0; i < patch.n; ++i) log_sum.cell(b, t, patch.y[i], patch.x[i])[h] = norm.log_sum.v[i];
      }
    }
  });
}

/// All three gradients at once, for they need the same weights: of the tile's own queries from every key they
/// see, of its own keys from every query that sees them.
void pull_home(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o, const Tensor& log_sum,
               const Tensor& delta, const AttentionWindow& window, TileOrigin origin, Tensor* dq, Tensor& dk,
               Tensor& dv, OrderFreeSums* shared_sums) {
  const Shape& s = d_o.shape();
  const Span own_keys{0, dk.shape().t}, own_queries{0, s.t}, keys_held = frames_at_hand(k),
                                                             queries_held = frames_at_hand(d_o);
  const bool shared = shared_sums || shared_queries(q, d_o);
  SharedQueryGradient sum(shared, s, q, origin, s.y, shared_sums);
  for_strips(s, [&](Index b, Index row, const Patch& patch) {
    for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
      const auto keys = gather_frames(k, b, patch, channel), values = gather_frames(v, b, patch, channel);
      std::vector<Block> out_k(static_cast<std::size_t>(own_keys.to), Block{}), out_v(out_k);
      for (Index t = queries_held.from; t < queries_held.to; ++t) {
        const bool own_query = t >= own_queries.from && t < own_queries.to;
        const Span seen = key_frames(window, origin, t),
                   frames = own_query ? seen : intersect(seen, own_keys);
        if (frames.size() <= 0) continue;
        const Block query = gather_query(q, shared, b, t, origin, patch, channel),
                    g = gather(d_o, b, t, patch, channel);
        const Lanes norm = gather_value(log_sum, b, t, patch, h), del = gather_value(delta, b, t, patch, h);
        Block out{};
        for (Index i = frames.from; i < frames.to; ++i) {
          const auto j = static_cast<std::size_t>(i - keys_held.from);
          Lanes p, ds;
          products(query, keys[j], &p);
          products(g, values[j], &ds);
          pull_scores(p, ds, norm, del);
          if (own_query) add_weighted(out, &ds, keys[j]);
          if (i < own_keys.from || i >= own_keys.to) continue;
          add_weighted(out_k[static_cast<std::size_t>(i)], &ds, query); // which carries the scale
          add_weighted(out_v[static_cast<std::size_t>(i)], &p, g);
        }
        if (!own_query) continue;
        if (shared)
          sum.add(out, b, t, row, patch.n, channel);
        else if (dq)
          scatter(out, scales, *dq, b, t, patch, channel);
      }
      for (Index t = own_keys.from; t < own_keys.to; ++t) {
        scatter(out_k[static_cast<std::size_t>(t)], ones, dk, b, t, patch, channel);
        scatter(out_v[static_cast<std::size_t>(t)], ones, dv, b, t, patch, channel);
      }
    }
  });
  if (shared && dq) sum.store(*dq);
}

} // namespace

void attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
            TileOrigin origin, Tensor& o, Tensor& log_sum) {
  if (stays_home(window)) return attend_home(q, k, v, window, origin, o, log_sum);
  const Shape& s = o.shape();
  const bool shared = shared_queries(q, o);
  for_patches(s, [&](Index b, Index t, Index, const Patch& patch) {
    const Shared box(patch, window, origin, &AxisWindow::keys);
    const Span frames = key_frames(window, origin, t);
    const Index n = frames.size() * box.cells();
    std::vector<Lanes> scores(static_cast<std::size_t>(n));
    for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
      const Block query = gather_query(q, shared, b, t, origin, patch, channel);
      Lanes* at = scores.data();
      for (Index kt = frames.from; kt < frames.to; ++kt)
        for (Index ky = box.y().from; ky < box.y().to; ++ky, at += box.width()) {
          products(query, k.cell(b, kt, ky, box.x().from) + channel, s.c, box.width(), at);
          box.mask(at, ky);
        }
      const Normaliser norm = softmax(scores.data(), n);
      Block out{};
      at = scores.data();
      for (Index kt = frames.from; kt < frames.to; ++kt)
        for (Index ky = box.y().from; ky < box.y().to; ++ky, at += box.width())
          add_weighted(out, at, v.cell(b, kt, ky, box.x().from) + channel, s.c, box.width());
      scatter(out, norm.inverse, o, b, t, patch, channel);
      for (int i = 0; i < patch.n; ++i) log_sum.cell(b, t, patch.y[i], patch.x[i])[h] = norm.log_sum.v[i];
    }
  });
}

std::vector<float> attention_weights(const Tensor& q, const Tensor& k, const AttentionWindow& window,
                                     TileOrigin origin, Index t, Index y, Index x) {
  const bool shared = q.shape().y == 1 && q.shape().x == 1;
  const float* query = q.cell(0, shared ? t + origin.query_frame : t, shared ? 0 : y, shared ? 0 : x);
  const Span frames = key_frames(window, origin, t), rows = shifted(window.y.keys(y + origin.y), -origin.y),
             columns = shifted(window.x.keys(x + origin.x), -origin.x);
  std::vector<float> out;
  std::vector<double> p;
  for (Index channel = 0; channel < k.shape().c; channel += head_channels) {
    p.clear();
    for (Index kt = frames.from; kt < frames.to; ++kt)
      for (Index ky = rows.from; ky < rows.to; ++ky)
        for (Index kx = columns.from; kx < columns.to; ++kx) {
          const float* key = k.cell(0, kt, ky, kx);
          double score = 0;
          for (Index c = channel; c < channel + head_channels; ++c)
            score += double{query[c]} * double{key[c]};
          p.push_back(score * double{score_scale});
        }
    const double top = *std::ranges::max_element(p);
    double sum = 0;
    for (double& value : p) sum += value = std::exp(value - top);
    for (const double value : p) out.push_back(static_cast<float>(value / sum));
  }
  return out;
}

void attend_delta(const Tensor& d_o, const Tensor& o, Tensor& delta) {
  const Shape& s = o.shape();
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    for (Index x = 0; x < s.x; ++x) {
      const float *g = d_o.cell(b, t, y, x), *value = o.cell(b, t, y, x);
      float* out = delta.cell(b, t, y, x);
      for (Index h = 0; h < s.c / head_channels; ++h, g += head_channels, value += head_channels) {
        float sum = 0;
        for (int c = 0; c < head_channels; ++c) sum = std::fma(g[c], value[c], sum);
        out[h] = sum;
      }
    }
  });
}

namespace {

void pull_queries(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o, const Tensor& log_sum,
                  const Tensor& delta, const AttentionWindow& window, TileOrigin origin, Tensor& dq,
                  OrderFreeSums* shared_sums) {
  const Shape& s = d_o.shape();
  const bool shared = shared_sums || shared_queries(q, d_o);
  SharedQueryGradient sum(shared, s, q, origin, (s.y + patch_height - 1) / patch_height, shared_sums);
  for_patches(s, [&](Index b, Index t, Index row, const Patch& patch) {
    const Shared box(patch, window, origin, &AxisWindow::keys);
    const Span frames = key_frames(window, origin, t);
    std::vector<Lanes> p(static_cast<std::size_t>(box.width())), ds(p.size());
    for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
      const Block query = gather_query(q, shared, b, t, origin, patch, channel),
                  g = gather(d_o, b, t, patch, channel);
      const Lanes norm = gather_value(log_sum, b, t, patch, h), del = gather_value(delta, b, t, patch, h);
      Block out{};
      for (Index kt = frames.from; kt < frames.to; ++kt)
        for (Index ky = box.y().from; ky < box.y().to; ++ky) {
          const float* keys = k.cell(b, kt, ky, box.x().from) + channel;
          products(query, keys, s.c, box.width(), p.data());
          box.mask(p.data(), ky);
          products(g, v.cell(b, kt, ky, box.x().from) + channel, s.c, box.width(), ds.data());
          for (std::size_t j = 0; j < p.size(); ++j) pull_scores(p[j], ds[j], norm, del);
          add_weighted(out, ds.data(), keys, s.c, box.width());
        }
      if (shared)
        sum.add(out, b, t, row, patch.n, channel);
      else
        scatter(out, scales, dq, b, t, patch, channel);
    }
  });
  if (shared) sum.store(dq);
}

void pull_keys(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o, const Tensor& log_sum,
               const Tensor& delta, const AttentionWindow& window, TileOrigin origin, Tensor& dk,
               Tensor& dv) {
  const Shape& s = dk.shape();
  const Span held = frames_at_hand(d_o);
  const bool shared = shared_queries(q, d_o);
  for_patches(s, [&](Index b, Index t, Index, const Patch& patch) {
    // Frames of lead-time queries are leads: every one of them sees every frame.
    const Span frames = window.t.kind == AxisWindow::Kind::all
                            ? held
                            : shifted(window.t.queries(t + origin.key_frame), -origin.query_frame);
    const Shared box(patch, window, origin, &AxisWindow::queries);
    std::vector<Lanes> p(static_cast<std::size_t>(box.width())), ds(p.size());
    for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
      const Block key = gather(k, b, t, patch, channel, score_scale), value = gather(v, b, t, patch, channel);
      Block out_k{}, out_v{};
      for (Index qt = frames.from; qt < frames.to; ++qt)
        for (Index qy = box.y().from; qy < box.y().to; ++qy) {
          const float* queries =
              (shared ? q.cell(0, qt + origin.query_frame, 0, 0) : q.cell(b, qt, qy, box.x().from)) + channel;
          const float* gradients = d_o.cell(b, qt, qy, box.x().from) + channel;
          const Index query_stride = shared ? 0 : s.c;
          products(key, queries, query_stride, box.width(), p.data());
          box.mask(p.data(), qy);
          products(value, gradients, s.c, box.width(), ds.data());
          for (std::size_t j = 0; j < p.size(); ++j) {
            const Index x = box.x().from + static_cast<Index>(j);
            pull_scores(p[j], ds[j], all_lanes(log_sum.cell(b, qt, qy, x)[h]),
                        all_lanes(delta.cell(b, qt, qy, x)[h]));
          }
          add_weighted(out_v, p.data(), gradients, s.c, box.width());
          add_weighted(out_k, ds.data(), queries, query_stride, box.width());
        }
      scatter(out_k, scales, dk, b, t, patch, channel);
      scatter(out_v, ones, dv, b, t, patch, channel);
    }
  });
}

} // namespace

void attend_gradients(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                      const Tensor& log_sum, const Tensor& delta, const AttentionWindow& window,
                      TileOrigin origin, Tensor* dq, Tensor& dk, Tensor& dv, OrderFreeSums* shared_sums) {
  if (stays_home(window))
    return pull_home(q, k, v, d_o, log_sum, delta, window, origin, dq, dk, dv, shared_sums);
  if (dq) pull_queries(q, k, v, d_o, log_sum, delta, window, origin, *dq, shared_sums);
  pull_keys(q, k, v, d_o, log_sum, delta, window, origin, dk, dv);
}

double attended_pairs(const Shape& s, const AttentionWindow& window, TileOrigin origin) {
  const auto along = [](const AxisWindow& axis, Index from, Index count) {
    double pairs = 0;
    for (Index i = from; i < from + count; ++i)
      pairs += static_cast<double>(axis.keys(i).to - axis.keys(i).from);
    return pairs;
  };
  return static_cast<double>(s.b) * along(window.t, origin.query_frame, s.t) *
         along(window.y, origin.y, s.y) * along(window.x, origin.x, s.x);
}

} // namespace pluvia
