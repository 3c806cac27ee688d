#include <vector>

#include "attention_lanes.hpp"
#include "kernels.hpp"
#include "pluvia/core/order_free_sums.hpp"

namespace pluvia {

namespace {

using namespace lanes16;

/// Queries that all cells share: their gradients add up over cells, in the order of rows and lanes, or, where
/// order-free sums are given, in any.
class SharedQueryGradient {
public:
  /// Of this part s of the leads of q, with so many rows to add up one by one. Idle unless shared.
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
    simd::Float16 cells[lanes], total;
    float* const to = partial_.data() + part * leads_ * channels_ + at;
    std::memcpy(cells, block.c, sizeof cells);
    std::memcpy(&total, to, sizeof total);
    simd::turn(cells);
    for (int i = 0; i < n; ++i) total += score_scale * cells[i];
    std::memcpy(to, &total, sizeof total);
  }
  /// Zero for the leads of other parts.
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

/// All three gradients at once, for they need the same weights: of the tile's own queries from every key they
/// see, of its own keys from every query that sees them.
void pull_home(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o, const Tensor& log_sum,
               const Tensor& delta, const AttentionWindow& window, TileOrigin origin, Tensor* dq, Tensor& dk,
               Tensor& dv, OrderFreeSums* shared_sums) {
  const Shape& s = d_o.shape();
  const Span own_keys{0, dk.shape().t}, keys_held = frames_at_hand(k), queries_held = frames_at_hand(d_o);
  const bool shared = shared_queries(window);
  const auto own = [&](Index t) { return t >= 0 && t < s.t; };
  const auto contains = [](Span span, Index i) { return i >= span.from && i < span.to; };
  // The keys that query t sees and that this rank has a use for.
  const auto frames_of = [&](Index t) {
    const Span seen = key_frames(window, origin, t);
    return own(t) ? seen : intersect(seen, own_keys);
  };
  const auto pairs = [&](std::vector<Lanes>& of, Index t) {
    return of.data() + (t - queries_held.from) * keys_held.size();
  };
  SharedQueryGradient sum(shared, s, q, origin, s.y, shared_sums);
  for_strips(s, [&] {
    std::vector<Block> queries(static_cast<std::size_t>(queries_held.size())), g(queries.size());
    // Of pairs [queries at hand, keys at hand], where the query sees the key.
    std::vector<Lanes> p(static_cast<std::size_t>(queries_held.size() * keys_held.size())), ds(p.size());
    return [&, queries, g, p, ds, keys = std::vector<Block>(),
            values = std::vector<Block>()](Index b, Index row, const Strip& strip) mutable {
      for (Index h = 0, channel = 0; channel < s.c; ++h, channel += head_channels) {
        gather_frames(k, b, strip, channel, keys);
        gather_frames(v, b, strip, channel, values);
        for (Index t = queries_held.from; t < queries_held.to; ++t) {
          const Span frames = shifted(frames_of(t), -keys_held.from);
          if (frames.size() <= 0) continue;
          const auto i = static_cast<std::size_t>(t - queries_held.from);
          queries[i] = gather_query(q, shared, b, t, origin, strip, channel);
          g[i] = gather(d_o, b, t, strip, channel);
          Lanes *const pt = pairs(p, t) + frames.from, *const dst = pairs(ds, t) + frames.from;
          products(queries[i], keys.data() + frames.from, frames.size(), pt);
          products(g[i], values.data() + frames.from, frames.size(), dst);
          const Lanes norm = gather_value(log_sum, b, t, strip, h), del = gather_value(delta, b, t, strip, h);
          for (Index j = 0; j < frames.size(); ++j) pull_scores(pt[j], dst[j], norm, del);
          if (!own(t)) continue;
          Block out{};
          add_weighted(out, dst, 1, keys.data() + frames.from, frames.size());
          if (shared)
            sum.add(out, b, t, row, strip.n, channel);
          else if (dq)
            scatter(out, scales, *dq, b, t, strip, channel);
        }
        for (Index t = 0; t < dk.shape().t; ++t) {
          Span seen_by = queries_held; // one span: what queries see rises with them
          while (seen_by.size() > 0 && !contains(frames_of(seen_by.from), t)) ++seen_by.from;
          while (seen_by.size() > 0 && !contains(frames_of(seen_by.to - 1), t)) --seen_by.to;
          Block out_k{}, out_v{};
          if (seen_by.size() > 0) {
            const Index stride = keys_held.size(), first = seen_by.from - queries_held.from,
                        key = t - keys_held.from;
            add_weighted(out_k, pairs(ds, seen_by.from) + key, stride, queries.data() + first,
                         seen_by.size()); // of queries that carry the scale
            add_weighted(out_v, pairs(p, seen_by.from) + key, stride, g.data() + first, seen_by.size());
          }
          scatter(out_k, ones, dk, b, t, strip, channel);
          scatter(out_v, ones, dv, b, t, strip, channel);
        }
      }
    };
  });
  if (shared && dq) sum.store(*dq);
}

} // namespace

void attend_delta(const Tensor& d_o, const Tensor& o, Tensor& delta) {
  if (o.device() == Device::gpu) return kernels::attend_delta(d_o.view(), o.view(), delta.view());
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
  const bool shared = shared_queries(window);
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
  const bool shared = shared_queries(window);
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

void pull_queries_there(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                        const Tensor& log_sum, const Tensor& delta, const AttentionWindow& window,
                        TileOrigin origin, Tensor& dq) {
  const auto pull = [&](const View& to) {
    kernels::pull_queries(q.view(), k.view(), v.view(), d_o.view(), log_sum.view(), delta.view(), window,
                          origin, to);
  };
  if (!shared_queries(window)) return pull(dq.view());
  Tensor of_cells(d_o.shape(), {}, Device::gpu);
  pull(of_cells.view());
  kernels::sum_over_cells(of_cells.view(), origin.query_frame, dq.view());
}

} // namespace

void attend_gradients(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                      const Tensor& log_sum, const Tensor& delta, const AttentionWindow& window,
                      TileOrigin origin, Tensor* dq, Tensor& dk, Tensor& dv, OrderFreeSums* shared_sums,
                      const Arrival& arrival) {
  const bool gpu = k.device() == Device::gpu, around = !gpu && !stays_home(window);
  // Queries need nothing of other tiles but keys and values, which are there since the forward pass.
  if (around && dq) pull_queries(q, k, v, d_o, log_sum, delta, window, origin, *dq, shared_sums);
  if (gpu && dq) pull_queries_there(q, k, v, d_o, log_sum, delta, window, origin, *dq);
  if (arrival) arrival();
  if (gpu)
    return kernels::pull_keys(q.view(), k.view(), v.view(), d_o.view(), log_sum.view(), delta.view(), window,
                              origin, frames_at_hand(d_o), dk.view(), dv.view());
  if (!around) return pull_home(q, k, v, d_o, log_sum, delta, window, origin, dq, dk, dv, shared_sums);
  pull_keys(q, k, v, d_o, log_sum, delta, window, origin, dk, dv);
}

} // namespace pluvia
