#include "pluvia/ops/attention.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_lanes.hpp"
#include "kernels.hpp"

namespace pluvia {

namespace {

using namespace lanes16;

/// Every cell attends to itself in other frames.
void attend_home(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
                 TileOrigin origin, Tensor& o, Tensor& log_sum) {
  const Shape& s = o.shape();
  const bool shared = shared_queries(window);
  const Span held = frames_at_hand(k);
  for_strips(s, [&] {
    return [&, keys = std::vector<Block>(), values = std::vector<Block>(),
            scores = std::vector<Lanes>(static_cast<std::size_t>(held.size()))](Index b, Index,
                                                                                const Strip& strip) mutable {
      for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
        gather_frames(k, b, strip, channel, keys);
        gather_frames(v, b, strip, channel, values);
        for (Index t = 0; t < s.t; ++t) {
          const Block query = gather_query(q, shared, b, t, origin, strip, channel);
          const Span frames = shifted(key_frames(window, origin, t), -held.from);
          products(query, keys.data() + frames.from, frames.size(), scores.data());
          const Normaliser norm = softmax(scores.data(), frames.size());
          Block out{};
          add_weighted(out, scores.data(), 1, values.data() + frames.from, frames.size());
          scatter(out, norm.inverse, o, b, t, strip, channel);
          scatter_value(norm.log_sum, log_sum, b, t, strip, h);
        }
      }
    };
  });
}

enum class Patches { all, inside, rim };

/// Are all keys that a patch sees in frame t cells and frames of the tile's own?
bool is_inside(const Patch& patch, const AttentionWindow& window, TileOrigin origin, Index t,
               const Shape& keys) {
  // Windows rise with the query, and so do the cells of a patch.
  const auto within = [](const AxisWindow& axis, Index first, Index last, Index start, Index extent) {
    return axis.keys(first + start).from >= start && axis.keys(last + start).to <= start + extent;
  };
  const Span frames = key_frames(window, origin, t);
  return frames.from >= 0 && frames.to <= keys.t &&
         within(window.y, patch.y[0], patch.y[patch.n - 1], origin.y, keys.y) &&
         within(window.x, patch.x[0], patch.x[patch.n - 1], origin.x, keys.x);
}

/// Every cell attends to cells around it.
void attend_around(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
                   TileOrigin origin, Patches which, Tensor& o, Tensor& log_sum) {
  const Shape& s = o.shape();
  const bool shared = shared_queries(window);
  for_patches(s, [&](Index b, Index t, Index, const Patch& patch) {
    if (which != Patches::all && is_inside(patch, window, origin, t, k.shape()) != (which == Patches::inside))
      return;
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
      scatter_value(norm.log_sum, log_sum, b, t, patch, h);
    }
  });
}

/// The queries whose keys are all cells and frames of the tile's own.
OutputPart inside(const AttentionWindow& window, TileOrigin origin, const Shape& queries, const Shape& keys) {
  // Windows rise with the query.
  const auto within = [](Index all, Index extent, auto&& keys_of) {
    Span out{0, all};
    while (out.size() > 0 && keys_of(out.from).from < 0) ++out.from;
    while (out.size() > 0 && keys_of(out.to - 1).to > extent) --out.to;
    return out;
  };
  return {
      within(queries.t, keys.t, [&](Index t) { return key_frames(window, origin, t); }),
      within(queries.y, keys.y, [&](Index y) { return shifted(window.y.keys(y + origin.y), -origin.y); }),
      within(queries.x, keys.x, [&](Index x) { return shifted(window.x.keys(x + origin.x), -origin.x); })};
}

} // namespace

void attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionWindow& window,
            TileOrigin origin, Tensor& o, Tensor& log_sum, const Arrival& arrival) {
  if (k.device() == Device::gpu) {
    const Split split =
        arrival ? split_launches(inside(window, origin, o.shape(), k.shape()), o.shape()) : Split{};
    return compute_around(arrival, split, [&](std::span<const OutputPart> parts) {
      kernels::attend(q.view(), k.view(), v.view(), window, origin, o.view(), log_sum.view(), parts);
    });
  }
  if (arrival && !stays_home(window)) {
    attend_around(q, k, v, window, origin, Patches::inside, o, log_sum);
    arrival();
    return attend_around(q, k, v, window, origin, Patches::rim, o, log_sum);
  }
  if (arrival) arrival();
  if (stays_home(window)) return attend_home(q, k, v, window, origin, o, log_sum);
  attend_around(q, k, v, window, origin, Patches::all, o, log_sum);
}

std::vector<float> attention_weights(const Tensor& q, const Tensor& k, const AttentionWindow& window,
                                     TileOrigin origin, Index t, Index y, Index x) {
  const bool shared = shared_queries(window);
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
