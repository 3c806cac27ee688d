#include <cmath>

#include "for_parts.hpp"
#include "kernels.hpp"
#include "pluvia/core/for_cells.hpp"
#include "pluvia/core/math.hpp"
#include "sixteen.hpp"

namespace pluvia::kernels {

namespace {

constexpr float score_scale = 0.25F; // 1 / sqrt(head_channels); a power of two, so it may be applied anywhere
constexpr int channels = head_channels;

using Head = Sixteen; ///< of one cell
static_assert(channels == 16);
PLUVIA_ANYWHERE Head head_of(const float* cell, float factor = 1.0F) {
  Head out = load(cell);
  for (int c = 0; c < channels; ++c) out.v[c] = factor * out.v[c];
  return out;
}
PLUVIA_ANYWHERE float product(const Head& a, const float* b) {
  const Head with = load(b);
  float sum = 0;
  for (int c = 0; c < channels; ++c) sum = std::fma(a.v[c], with.v[c], sum);
  return sum;
}
PLUVIA_ANYWHERE void add_weighted(Head& sum, float weight, const float* b) {
  const Head more = load(b);
  for (int c = 0; c < channels; ++c) sum.v[c] = std::fma(weight, more.v[c], sum.v[c]);
}

struct Box {
  Span t, y, x;
};

/// Frames, rows and columns of keys that a query of the tile's frame t and cell (y, x) sees, relative to the
/// tile.
PLUVIA_ANYWHERE Box keys_of(const AttentionWindow& window, TileOrigin origin, Index t, Index y, Index x) {
  return {shifted(window.t.keys(t + origin.query_frame), -origin.key_frame),
          shifted(window.y.keys(y + origin.y), -origin.y), shifted(window.x.keys(x + origin.x), -origin.x)};
}

/// Calls f(frame, row, column) in the global order of cells.
template <class F> PLUVIA_ANYWHERE void for_box(const Box& box, F&& f) {
  for (Index t = box.t.from; t < box.t.to; ++t)
    for (Index y = box.y.from; y < box.y.to; ++y)
      for (Index x = box.x.from; x < box.x.to; ++x) f(t, y, x);
}

bool shared_queries(const AttentionWindow& window) {
  return window.t.kind == AxisWindow::Kind::all;
}

/// Where the query of a cell lies: of all cells the same where they share it.
struct Queries {
  ConstView q;
  bool shared;
  Index first;
  PLUVIA_ANYWHERE const float* at(Index b, Index t, Index y, Index x) const {
    return shared ? q.cell(0, t + first, 0, 0) : q.cell(b, t, y, x);
  }
};

} // namespace

void attend(const ConstView& q, const ConstView& k, const ConstView& v, const AttentionWindow& window,
            TileOrigin origin, const View& o, const View& log_sum, std::span<const OutputPart> parts) {
  const Queries queries{q, shared_queries(window), origin.query_frame};
  for_runs(o.shape, parts, 1, o.shape.c / channels, [=] PLUVIA_ANYWHERE(const CellAt& at, Index, Index h) {
    const Index first = h * channels;
    const Head query = head_of(queries.at(at.b, at.t, at.y, at.x) + first, score_scale);
    const Box box = keys_of(window, origin, at.t, at.y, at.x);
    float top = product(query, k.cell(at.b, box.t.from, box.y.from, box.x.from) + first);
    for_box(box, [&](Index t, Index y, Index x) {
      const float score = product(query, k.cell(at.b, t, y, x) + first);
      top = score > top ? score : top;
    });
    float sum = 0;
    Head out{};
    for_box(box, [&](Index t, Index y, Index x) {
      const float weight = exp_f32(product(query, k.cell(at.b, t, y, x) + first) - top);
      sum += weight;
      add_weighted(out, weight, v.cell(at.b, t, y, x) + first);
    });
    const float inverse = 1.0F / sum;
    for (int c = 0; c < channels; ++c) out.v[c] *= inverse;
    store(out, o.cell(at.b, at.t, at.y, at.x) + first);
    log_sum.cell(at.b, at.t, at.y, at.x)[h] = top + log_f32(sum);
  });
}

void attend_delta(const ConstView& d_o, const ConstView& o, const View& delta) {
  for_cells(o.shape, o.shape.c / channels, [=] PLUVIA_ANYWHERE(const CellAt& at, Index h) {
    const Head g = head_of(d_o.cell(at.b, at.t, at.y, at.x) + h * channels);
    delta.cell(at.b, at.t, at.y, at.x)[h] = product(g, o.cell(at.b, at.t, at.y, at.x) + h * channels);
  });
}

void pull_queries(const ConstView& q, const ConstView& k, const ConstView& v, const ConstView& d_o,
                  const ConstView& log_sum, const ConstView& delta, const AttentionWindow& window,
                  TileOrigin origin, const View& dq) {
  const Queries queries{q, shared_queries(window), origin.query_frame};
  for_cells(d_o.shape, d_o.shape.c / channels, [=] PLUVIA_ANYWHERE(const CellAt& at, Index h) {
    const Index first = h * channels;
    const Head query = head_of(queries.at(at.b, at.t, at.y, at.x) + first, score_scale),
               g = head_of(d_o.cell(at.b, at.t, at.y, at.x) + first);
    const float norm = log_sum.cell(at.b, at.t, at.y, at.x)[h],
                of_output = delta.cell(at.b, at.t, at.y, at.x)[h];
    Head out{};
    for_box(keys_of(window, origin, at.t, at.y, at.x), [&](Index t, Index y, Index x) {
      const float* key = k.cell(at.b, t, y, x) + first;
      const float p = exp_f32(product(query, key) - norm);
      add_weighted(out, p * (product(g, v.cell(at.b, t, y, x) + first) - of_output), key);
    });
    for (int c = 0; c < channels; ++c) out.v[c] *= score_scale;
    store(out, dq.cell(at.b, at.t, at.y, at.x) + first);
  });
}

void pull_keys(const ConstView& q, const ConstView& k, const ConstView& v, const ConstView& d_o,
               const ConstView& log_sum, const ConstView& delta, const AttentionWindow& window,
               TileOrigin origin, Span held, const View& dk, const View& dv) {
  const Queries queries{q, shared_queries(window), origin.query_frame};
  for_cells(dk.shape, dk.shape.c / channels, [=] PLUVIA_ANYWHERE(const CellAt& at, Index h) {
    const Index first = h * channels;
    const Head key = head_of(k.cell(at.b, at.t, at.y, at.x) + first, score_scale),
               value = head_of(v.cell(at.b, at.t, at.y, at.x) + first);
    // Frames of lead-time queries are leads: every one of them sees every frame.
    const Box box{queries.shared ? held
                                 : shifted(window.t.queries(at.t + origin.key_frame), -origin.query_frame),
                  shifted(window.y.queries(at.y + origin.y), -origin.y),
                  shifted(window.x.queries(at.x + origin.x), -origin.x)};
    Head out_k{}, out_v{};
    for_box(box, [&](Index t, Index y, Index x) {
      const float* query = queries.at(at.b, t, y, x) + first;
      const float* g = d_o.cell(at.b, t, y, x) + first;
      const float p = exp_f32(product(key, query) - log_sum.cell(at.b, t, y, x)[h]),
                  ds = p * (product(value, g) - delta.cell(at.b, t, y, x)[h]);
      add_weighted(out_v, p, g);
      add_weighted(out_k, ds, query);
    });
    for (int c = 0; c < channels; ++c) out_k.v[c] *= score_scale;
    store(out_k, dk.cell(at.b, at.t, at.y, at.x) + first);
    store(out_v, dv.cell(at.b, at.t, at.y, at.x) + first);
  });
}

} // namespace pluvia::kernels
