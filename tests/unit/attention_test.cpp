// Attention and its gradients against plain sums in double precision, window by window.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/random.hpp"
#include "pluvia/ops/attention.hpp"

namespace pluvia {
namespace {

using Kind = AxisWindow::Kind;

Tensor random(const Shape& shape, std::uint64_t seed) {
  Tensor t(shape);
  const auto values = t.storage();
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_normal(seed, RandomPurpose::test, i));
  return t;
}

struct Plain {
  std::vector<double> o, dq, dk, dv;
};

/// o, and the gradients of <o, g>.
Plain plain(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const AttentionWindow& w) {
  const Shape s = g.shape(), keys = k.shape();
  const bool shared = q.shape().y == 1;
  Plain out{std::vector<double>(s.size()), std::vector<double>(q.shape().size()),
            std::vector<double>(keys.size()), std::vector<double>(keys.size())};
  const auto at = [](const Shape& of, Index t, Index y, Index x, Index c) {
    return static_cast<std::size_t>(((t * of.y + y) * of.x + x) * of.c + c);
  };
  for (Index t = 0; t < s.t; ++t)
    for (Index y = 0; y < s.y; ++y)
      for (Index x = 0; x < s.x; ++x)
        for (Index first = 0; first < s.c; first += head_channels) {
          const auto query = [&](Index c) {
            return at(q.shape(), t, shared ? 0 : y, shared ? 0 : x, first + c);
          };
          std::vector<std::size_t> cells;
          std::vector<double> p, dp;
          double sum = 0, mean = 0;
          for (Index kt = w.t.keys(t).from; kt < w.t.keys(t).to; ++kt)
            for (Index ky = w.y.keys(y).from; ky < w.y.keys(y).to; ++ky)
              for (Index kx = w.x.keys(x).from; kx < w.x.keys(x).to; ++kx)
                cells.push_back(at(keys, kt, ky, kx, first));
          for (const std::size_t cell : cells) {
            double score = 0, product = 0;
            for (Index c = 0; c < head_channels; ++c) {
              score += double{q.storage()[query(c)]} * k.storage()[cell + static_cast<std::size_t>(c)];
              product += double{g.storage()[at(s, t, y, x, first + c)]} *
                         v.storage()[cell + static_cast<std::size_t>(c)];
            }
            p.push_back(std::exp(score / 4));
            dp.push_back(product);
            sum += p.back();
          }
          for (std::size_t j = 0; j < cells.size(); ++j) mean += (p[j] /= sum) * dp[j];
          for (std::size_t j = 0; j < cells.size(); ++j)
            for (Index c = 0; c < head_channels; ++c) {
              const std::size_t o = at(s, t, y, x, first + c), cell = cells[j] + static_cast<std::size_t>(c);
              const double ds = p[j] * (dp[j] - mean) / 4;
              out.o[o] += p[j] * v.storage()[cell];
              out.dq[query(c)] += ds * k.storage()[cell];
              out.dk[cell] += ds * q.storage()[query(c)];
              out.dv[cell] += p[j] * g.storage()[o];
            }
        }
  return out;
}

void expect_near(const Tensor& is, const std::vector<double>& want, const char* what) {
  double scale = 0, worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    scale = std::max(scale, std::abs(want[i]));
    worst = std::max(worst, std::abs(want[i] - is.storage()[i]));
  }
  EXPECT_GT(scale, 0.1) << what;
  EXPECT_LT(worst, 5e-6 * scale) << what;
}

constexpr Index frames = 5, ny = 11, nx = 19, leads = 3;

struct Case {
  const char* name;
  AttentionWindow window;
  Index query_frames;
  bool shared;
};

std::vector<Case> cases() {
  const AxisWindow own{Kind::own, 0, 0}, past{Kind::past, 0, frames}, all{Kind::all, 0, frames};
  const AxisWindow around_y{Kind::around, 3, ny}, around_x{Kind::around, 3, nx};
  const AxisWindow block_y{Kind::block, 4, ny}, block_x{Kind::block, 4, nx};
  return {{"temporal", {past, own, own}, frames, false},
          {"neighbourhood", {own, around_y, around_x}, frames, false},
          {"windowed", {own, block_y, block_x}, frames, false},
          {"joint", {past, around_y, around_x}, frames, false},
          {"lead-time queries", {all, own, own}, leads, true},
          {"lead-time queries around", {all, around_y, around_x}, leads, true}};
}

TEST(Attention, AgreesWithPlainSums) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Shape keys{1, frames, ny, nx, 32};
    Shape out = keys;
    out.t = c.query_frames;
    Shape per_head = out;
    per_head.c = out.c / head_channels;
    const Shape queries = c.shared ? Shape{1, leads, 1, 1, 32} : out;
    const Tensor q = random(queries, 1), k = random(keys, 2), v = random(keys, 3), g = random(out, 4);
    Tensor o(out), log_sum(per_head), delta(per_head), dq(queries), dk(keys), dv(keys);
    attend(q, k, v, c.window, {}, o, log_sum);
    attend_delta(g, o, delta);
    attend_gradients(q, k, v, g, log_sum, delta, c.window, {}, &dq, dk, dv);
    const Plain want = plain(q, k, v, g, c.window);
    expect_near(o, want.o, "o");
    expect_near(dq, want.dq, "dq");
    expect_near(dk, want.dk, "dk");
    expect_near(dv, want.dv, "dv");
  }
}

TEST(Attention, WeightsOfEveryQueryMakeItsOutput) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Shape keys{1, frames, ny, nx, 32}, out{1, c.query_frames, ny, nx, 32};
    const Tensor q = random(c.shared ? Shape{1, leads, 1, 1, 32} : out, 1), k = random(keys, 2),
                 v = random(keys, 3);
    Tensor o(out), log_sum({1, c.query_frames, ny, nx, 2});
    attend(q, k, v, c.window, {}, o, log_sum);
    std::vector<double> made;
    double worst_sum = 0;
    for (Index t = 0; t < out.t; ++t)
      for (Index y = 0; y < ny; ++y)
        for (Index x = 0; x < nx; ++x) {
          const std::vector<float> weights = attention_weights(q, k, c.window, {}, t, y, x);
          const Span ts = c.window.t.keys(t), ys = c.window.y.keys(y), xs = c.window.x.keys(x);
          std::size_t j = 0;
          for (Index head = 0; head < 2; ++head) {
            double sums[head_channels] = {}, total = 0;
            for (Index kt = ts.from; kt < ts.to; ++kt)
              for (Index ky = ys.from; ky < ys.to; ++ky)
                for (Index kx = xs.from; kx < xs.to; ++kx, ++j) {
                  total += double{weights.at(j)};
                  for (Index i = 0; i < head_channels; ++i)
                    sums[i] += double{weights[j]} * double{v.cell(0, kt, ky, kx)[head * head_channels + i]};
                }
            made.insert(made.end(), std::begin(sums), std::end(sums));
            worst_sum = std::max(worst_sum, std::abs(total - 1));
          }
          EXPECT_EQ(j, weights.size());
        }
    expect_near(o, made, "o");
    EXPECT_LT(worst_sum, 1e-6);
  }
}

/// Where a tile lies in a domain of so many columns, and the rest of it around: at an edge windows reach far.
constexpr Index wide = 31, y0 = 4, x0 = 5;
constexpr Shape tile{1, frames, ny - y0, 20, 32};
constexpr Margin around{0, 0, 4, 0, 5, 6};

/// A tile of `whole` with its margins, or with margins that are not numbers.
Tensor cut(const Tensor& whole, bool margins) {
  Shape s = tile;
  s.c = whole.shape().c;
  Tensor out(s, around);
  out.fill(std::numeric_limits<float>::quiet_NaN());
  const Margin m = margins ? around : Margin{};
  for (Index t = 0; t < s.t; ++t)
    for (Index y = -m.y_lo; y < s.y + m.y_hi; ++y)
      std::copy_n(whole.cell(0, t, y + y0, x0 - m.x_lo), (s.x + m.x_lo + m.x_hi) * s.c,
                  out.cell(0, t, y, -m.x_lo));
  return out;
}

void expect_same(const Tensor& part, const Tensor& whole, const char* what) {
  const Tensor want = cut(whole, false).clone();
  EXPECT_TRUE(std::ranges::equal(part.storage(), want.storage())) << what;
}

TEST(Attention, MarginsMayArriveWhenWhatIsInsideIsDone) {
  const AttentionWindow window{{Kind::own, 0, 0}, {Kind::around, 3, ny}, {Kind::around, 3, wide}};
  const Shape domain{1, frames, ny, wide, 32}, heads{1, frames, ny, wide, 2};
  const Tensor q = random(domain, 1), k = random(domain, 2), v = random(domain, 3), g = random(domain, 4);
  Tensor o(domain), log_sum(heads), delta(heads), dq(domain), dk(domain), dv(domain);
  attend(q, k, v, window, {}, o, log_sum);
  attend_delta(g, o, delta);
  attend_gradients(q, k, v, g, log_sum, delta, window, {}, &dq, dk, dv);

  const TileOrigin origin{y0, x0};
  Shape tile_heads = tile;
  tile_heads.c = 2;
  Tensor tile_q = cut(q, false), tile_k = cut(k, false), tile_v = cut(v, false), tile_o(tile),
         tile_sum(tile_heads);
  tile_o.fill(0.0F);
  int arrivals = 0;
  attend(tile_q, tile_k, tile_v, window, origin, tile_o, tile_sum, [&] {
    ++arrivals;
    tile_k = cut(k, true), tile_v = cut(v, true);
    EXPECT_EQ(tile_o.cell(0, 2, 4, 4)[0], o.cell(0, 2, y0 + 4, x0 + 4)[0]) << "is inside";
    EXPECT_EQ(tile_o.cell(0, 2, 0, 4)[0], 0.0F) << "sees rows above";
    EXPECT_EQ(tile_o.cell(0, 2, 4, 19)[0], 0.0F) << "sees columns beside";
  });
  expect_same(tile_o, o, "o");
  expect_same(tile_sum, log_sum, "log_sum");

  Tensor tile_g = cut(g, false), around_sum = cut(log_sum, false), around_delta = cut(delta, false),
         tile_dq(tile), tile_dk(tile), tile_dv(tile);
  attend_gradients(tile_q, tile_k, tile_v, tile_g, around_sum, around_delta, window, origin, &tile_dq,
                   tile_dk, tile_dv, nullptr, [&] {
                     ++arrivals;
                     tile_q = cut(q, true), tile_g = cut(g, true);
                     around_sum = cut(log_sum, true), around_delta = cut(delta, true);
                     expect_same(tile_dq, dq, "dq");
                   });
  expect_same(tile_dk, dk, "dk");
  expect_same(tile_dv, dv, "dv");
  EXPECT_EQ(arrivals, 2) << "once each";
}

} // namespace
} // namespace pluvia
