#include "pluvia/ops/attention.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "pluvia/core/math.hpp"
#include "pluvia/core/parallel_for.hpp"

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

constexpr float score_scale = 0.25F; // 1 / sqrt(head_channels)
constexpr int half = head_channels / 2;

/// Dot product of one head in a fixed order: 8 lanes of two products each, then a tree.
inline float dot(const float* a, const float* b) {
  float lane[half];
  for (int i = 0; i < half; ++i) lane[i] = std::fma(a[i + half], b[i + half], a[i] * b[i]);
  for (int i = 0; i < 4; ++i) lane[i] += lane[i + 4];
  for (int i = 0; i < 2; ++i) lane[i] += lane[i + 2];
  return lane[0] + lane[1];
}

inline void add_scaled(float* to, float factor, const float* from) {
  for (int i = 0; i < head_channels; ++i) to[i] = std::fma(factor, from[i], to[i]);
}

/// Walks a box of cells in global order: f(pointer to the channels of each cell, running number).
struct Box {
  Span t, y, x; ///< y and x relative to the tile
  Index size() const { return (t.to - t.from) * (y.to - y.from) * (x.to - x.from); }
};

template <class F> void walk(const Box& box, F&& f) {
  Index n = 0;
  for (Index t = box.t.from; t < box.t.to; ++t)
    for (Index y = box.y.from; y < box.y.to; ++y)
      for (Index x = box.x.from; x < box.x.to; ++x, ++n) f(t, y, x, n);
}

Span shifted(Span s, Index by) {
  return {s.from - by, s.to - by};
}

bool shared_queries(const Tensor& q, const Tensor& o) {
  return q.shape().y == 1 && !(q.shape() == o.shape());
}

const float* query_of(const Tensor& q, bool shared, Index b, Index t, Index y, Index x) {
  return shared ? q.cell(0, t, 0, 0) : q.cell(b, t, y, x);
}

template <class F> void for_rows(const Shape& s, F&& f) {
  parallel_for(s.b * s.t * s.y, [&](Index row) { f(row / s.y / s.t, row / s.y % s.t, row % s.y, row); });
}

} // namespace

void attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
            TileOrigin origin, Tensor& o, Tensor& log_sum) {
  const Shape& s = o.shape();
  const Index heads = s.c / head_channels;
  const bool shared = shared_queries(q, o);
  for_rows(s, [&](Index b, Index t, Index y, Index) {
    std::vector<float> scores;
    for (Index x = 0; x < s.x; ++x) {
      const Box box{window.t.keys(t), shifted(window.y.keys(y + origin.y), origin.y),
                    shifted(window.x.keys(x + origin.x), origin.x)};
      const Index n = box.size();
      scores.resize(static_cast<std::size_t>(n * heads));
      const float* query = query_of(q, shared, b, t, y, x);
      walk(box, [&](Index kt, Index ky, Index kx, Index j) {
        const float* key = k.cell(b, kt, ky, kx);
        for (Index h = 0; h < heads; ++h)
          scores[static_cast<std::size_t>(h * n + j)] =
              score_scale * dot(query + h * head_channels, key + h * head_channels);
      });
      float* out = o.cell(b, t, y, x);
      std::memset(out, 0, static_cast<std::size_t>(s.c) * sizeof(float));
      float inverse[64];
      assert(heads <= 64);
      for (Index h = 0; h < heads; ++h) {
        float* a = scores.data() + h * n;
        const float top = *std::max_element(a, a + n);
        for (Index j = 0; j < n; ++j) a[j] = exp_f32(a[j] - top);
        float sum = 0;
        for (Index j = 0; j < n; ++j) sum += a[j];
        inverse[h] = 1.0F / sum;
        log_sum.cell(b, t, y, x)[h] = top + std::log(sum);
      }
      walk(box, [&](Index kt, Index ky, Index kx, Index j) {
        const float* value = v.cell(b, kt, ky, kx);
        for (Index h = 0; h < heads; ++h)
          add_scaled(out + h * head_channels, scores[static_cast<std::size_t>(h * n + j)],
                     value + h * head_channels);
      });
      for (Index h = 0; h < heads; ++h)
        for (int i = 0; i < head_channels; ++i) out[h * head_channels + i] *= inverse[h];
    }
  });
}

void attend_delta(const Tensor& d_o, const Tensor& o, Tensor& delta) {
  const Shape& s = o.shape();
  for_rows(s, [&](Index b, Index t, Index y, Index) {
    for (Index x = 0; x < s.x; ++x) {
      const float *g = d_o.cell(b, t, y, x), *value = o.cell(b, t, y, x);
      float* out = delta.cell(b, t, y, x);
      for (Index h = 0; h < s.c / head_channels; ++h)
        out[h] = dot(g + h * head_channels, value + h * head_channels);
    }
  });
}

void attend_query_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                           const Tensor& log_sum, const Tensor& delta, const AttentionWindow& window,
                           TileOrigin origin, Tensor& dq) {
  const Shape& s = d_o.shape();
  const Index heads = s.c / head_channels;
  const bool shared = shared_queries(q, d_o);
  std::vector<float> partial(shared ? static_cast<std::size_t>(s.b * s.t * s.y * s.c) : 0, 0.0F);
  for_rows(s, [&](Index b, Index t, Index y, Index row) {
    for (Index x = 0; x < s.x; ++x) {
      const Box box{window.t.keys(t), shifted(window.y.keys(y + origin.y), origin.y),
                    shifted(window.x.keys(x + origin.x), origin.x)};
      const float *query = query_of(q, shared, b, t, y, x), *g = d_o.cell(b, t, y, x);
      const float *norm = log_sum.cell(b, t, y, x), *del = delta.cell(b, t, y, x);
      float* out = shared ? partial.data() + row * s.c : dq.cell(b, t, y, x);
      if (!shared) std::memset(out, 0, static_cast<std::size_t>(s.c) * sizeof(float));
      walk(box, [&](Index kt, Index ky, Index kx, Index) {
        const float *key = k.cell(b, kt, ky, kx), *value = v.cell(b, kt, ky, kx);
        for (Index h = 0, c = 0; h < heads; ++h, c += head_channels) {
          const float p = exp_f32(score_scale * dot(query + c, key + c) - norm[h]);
          add_scaled(out + c, score_scale * p * (dot(g + c, value + c) - del[h]), key + c);
        }
      });
    }
  });
  if (!shared) return;
  for (Index t = 0; t < s.t; ++t) {
    float* out = dq.cell(0, t, 0, 0);
    std::memset(out, 0, static_cast<std::size_t>(s.c) * sizeof(float));
    for (Index b = 0; b < s.b; ++b)
      for (Index y = 0; y < s.y; ++y)
        for (Index c = 0; c < s.c; ++c)
          out[c] += partial[static_cast<std::size_t>(((b * s.t + t) * s.y + y) * s.c + c)];
  }
}

void attend_key_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                         const Tensor& log_sum, const Tensor& delta, const AttentionWindow& window,
                         TileOrigin origin, Tensor& dk, Tensor& dv) {
  const Shape& s = dk.shape();
  const Index heads = s.c / head_channels, query_frames = d_o.shape().t;
  const bool shared = shared_queries(q, d_o);
  for_rows(s, [&](Index b, Index t, Index y, Index) {
    for (Index x = 0; x < s.x; ++x) {
      // Frames of lead-time queries are leads: every one of them sees every frame.
      const Span frames =
          window.t.kind == AxisWindow::Kind::all ? Span{0, query_frames} : window.t.queries(t);
      const Box box{frames, shifted(window.y.queries(y + origin.y), origin.y),
                    shifted(window.x.queries(x + origin.x), origin.x)};
      const float *key = k.cell(b, t, y, x), *value = v.cell(b, t, y, x);
      float *out_k = dk.cell(b, t, y, x), *out_v = dv.cell(b, t, y, x);
      std::memset(out_k, 0, static_cast<std::size_t>(s.c) * sizeof(float));
      std::memset(out_v, 0, static_cast<std::size_t>(s.c) * sizeof(float));
      walk(box, [&](Index qt, Index qy, Index qx, Index) {
        const float *query = query_of(q, shared, b, qt, qy, qx), *g = d_o.cell(b, qt, qy, qx);
        const float *norm = log_sum.cell(b, qt, qy, qx), *del = delta.cell(b, qt, qy, qx);
        for (Index h = 0, c = 0; h < heads; ++h, c += head_channels) {
          const float p = exp_f32(score_scale * dot(query + c, key + c) - norm[h]);
          add_scaled(out_v + c, p, g + c);
          add_scaled(out_k + c, score_scale * p * (dot(g + c, value + c) - del[h]), query + c);
        }
      });
    }
  });
}

} // namespace pluvia
