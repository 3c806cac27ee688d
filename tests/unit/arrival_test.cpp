// What an accelerator is asked for before margins have arrived: what needs none of them, and nothing else.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/random.hpp"
#include "pluvia/ops/attention.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

class AcceleratorArrivals : public ::testing::Test {
  void SetUp() override {
    if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  }
};

Tensor random(const Shape& s, const Margin& m, std::uint64_t seed) {
  Tensor t(s, m);
  for (std::size_t i = 0; i < t.storage().size(); ++i)
    t.storage()[i] = static_cast<float>(random_normal(seed, RandomPurpose::test, i));
  return t;
}

/// On the accelerator, with numbers in its own cells and frames alone.
Tensor without_margins(const Tensor& whole) {
  Tensor out = whole.clone(whole.margin());
  const Tensor own = whole.clone();
  out.fill(nan);
  const Shape& s = whole.shape();
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; ++t)
      for (Index y = 0; y < s.y; ++y) std::copy_n(own.cell(b, t, y, 0), s.x * s.c, out.cell(b, t, y, 0));
  return out.to(Device::gpu);
}

bool contains(const std::vector<OutputPart>& parts, Index t, Index y, Index x) {
  const auto within = [](Span span, Index i) { return i >= span.from && i < span.to; };
  return std::ranges::any_of(
      parts, [&](const OutputPart& p) { return within(p.t, t) && within(p.y, y) && within(p.x, x); });
}

/// The values inside are those of `want`, and the others none yet.
void expect_inside_alone(const Tensor& there, const Tensor& want, const std::vector<OutputPart>& inside) {
  const Tensor is = there.to(Device::host);
  const Shape& s = want.shape();
  std::int64_t wrong = 0, early = 0;
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; ++t)
      for (Index y = 0; y < s.y; ++y)
        for (Index x = 0; x < s.x; ++x)
          for (Index c = 0; c < s.c; ++c) {
            const float value = is.cell(b, t, y, x)[c];
            if (contains(inside, t, y, x))
              wrong += value != want.cell(b, t, y, x)[c];
            else
              early += !std::isnan(value);
          }
  EXPECT_EQ(wrong, 0) << "inside";
  EXPECT_EQ(early, 0) << "rim";
}

TEST(OutputParts, CoverEveryCellOnce) {
  const Shape s{2, 4, 40, 60, 1};
  for (const OutputPart& inside : {OutputPart{{1, 3}, {2, 39}, {1, 58}},
                                   {{0, 4}, {0, 40}, {3, 60}},
                                   {{0, 4}, {1, 40}, {0, 60}},
                                   {{0, 4}, {0, 40}, {0, 60}}}) {
    const Split split = split_around(inside, s);
    for (Index t = 0; t < s.t; ++t)
      for (Index y = 0; y < s.y; ++y)
        for (Index x = 0; x < s.x; ++x)
          ASSERT_NE(contains(split.inside, t, y, x), contains(split.rim, t, y, x))
              << t << " " << y << " " << x;
    Index cells = 0;
    for (const auto& parts : {split.inside, split.rim})
      for (const OutputPart& p : parts) cells += p.t.size() * p.y.size() * p.x.size();
    EXPECT_EQ(cells, s.t * s.y * s.x);
  }
  const Split none = split_around({{2, 2}, {1, 39}, {1, 59}}, s);
  EXPECT_TRUE(none.inside.empty() && none.rim.empty());
}

TEST(OutputParts, FewCellsAreOneLaunch) {
  const OutputPart all{{0, 4}, {0, 64}, {0, 64}};
  static_assert(4 * 64 * 64 == worth_two_launches);
  EXPECT_FALSE(split_launches(all, {1, 4, 64, 64, 3}).inside.empty());
  EXPECT_TRUE(split_launches({{0, 4}, {0, 64}, {1, 64}}, {1, 4, 64, 64, 3}).inside.empty());
}

TEST_F(AcceleratorArrivals, ConvolutionsTakeWhatIsInsideFirst) {
  const Stencil stencil = causal_stencil(3, 3, 3);
  const Shape in{2, 4, 9, 31, 5}, out{2, 4, 9, 31, 7};
  const Tensor x = random(in, reach(stencil), 1), weight = random({3, 3, 3, in.c, out.c}, {}, 2),
               bias = random({1, 1, 1, 1, out.c}, {}, 3), residual = random(out, {}, 4);
  Tensor plain(out);
  convolve(x, pack(weight, stencil), bias.cell(0, 0, 0, 0), &residual, plain);
  const Tensor x_there = x.to(Device::gpu), weight_there = weight.to(Device::gpu),
               bias_there = bias.to(Device::gpu), residual_there = residual.to(Device::gpu);
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    // Whatever the library makes of a whole, its parts must not differ from.
    Tensor want(out, {}, Device::gpu);
    convolution(precision, x_there, weight_there, stencil, bias_there.cell(0, 0, 0, 0), &residual_there,
                want);
    const Tensor wanted = want.to(Device::host);
    if (precision == Precision::f32) {
      EXPECT_TRUE(std::ranges::equal(wanted.storage(), plain.storage()));
    }
    const bool by_parts = precision == Precision::f32 || accelerator::kind() == accelerator::Kind::pretend;
    const Split cut = split_around({{2, 4}, {1, 8}, {1, 30}}, out);
    for (const Split& split : {cut, Split{}}) {
      Tensor arriving = without_margins(x), y(out, {}, Device::gpu);
      y.fill(nan);
      int arrivals = 0;
      convolution(precision, arriving, weight_there, stencil, bias_there.cell(0, 0, 0, 0), &residual_there, y,
                  split, [&] {
                    ++arrivals;
                    if (by_parts) expect_inside_alone(y, wanted, split.inside);
                    set_values(arriving, x.storage());
                  });
      EXPECT_EQ(arrivals, 1);
      EXPECT_EQ(values_of(y), values_of(want));
    }
  }
}

TEST_F(AcceleratorArrivals, AttentionTakesWhatIsInsideFirst) {
  constexpr Index radius = 2;
  const AxisWindow around{AxisWindow::Kind::around, radius, 200}, own, past{AxisWindow::Kind::past, 0, 6};
  struct Case {
    AttentionWindow window;
    Shape s;
    TileOrigin origin;
    OutputPart inside;
    Margin margin;
  };
  const auto r = static_cast<int>(radius);
  for (const auto& [window, s, origin, part, margin] :
       {Case{{own, around, around},
             {2, 3, 61, 57, 16},
             {20, 30},
             {{0, 3}, {2, 59}, {2, 55}},
             {0, 0, r, r, r, r}},
        // At the domain's corner windows stay within it.
        Case{{own, around, around},
             {2, 3, 61, 57, 16},
             {0, 143},
             {{0, 3}, {0, 59}, {2, 57}},
             {0, 0, 0, r, r, 0}},
        // The keys of earlier frames are elsewhere.
        Case{{past, around, around}, {2, 3, 61, 57, 16}, {20, 30, 3, 3}, {}, {3, 0, r, r, r, r}},
        Case{{own, around, around}, {2, 3, 12, 9, 16}, {20, 30}, {}, {0, 0, r, r, r, r}}}) {
    const Tensor q = random(s, {}, 1), k = random(s, margin, 2), v = random(s, margin, 3);
    const Shape per_head{s.b, s.t, s.y, s.x, 1};
    Tensor want(s), norm(per_head);
    attend(q, k, v, window, origin, want, norm);
    Tensor k_there = without_margins(k), v_there = without_margins(v), o(s, {}, Device::gpu),
           log_sum(per_head, {}, Device::gpu);
    o.fill(nan), log_sum.fill(nan);
    const std::vector<OutputPart> inside = part.t.size() > 0 ? std::vector{part} : std::vector<OutputPart>{};
    int arrivals = 0;
    attend(q.to(Device::gpu), k_there, v_there, window, origin, o, log_sum, [&] {
      ++arrivals;
      expect_inside_alone(o, want, inside);
      expect_inside_alone(log_sum, norm, inside);
      set_values(k_there, k.storage());
      set_values(v_there, v.storage());
    });
    EXPECT_EQ(arrivals, 1);
    EXPECT_TRUE(std::ranges::equal(values_of(o), want.storage()));
    EXPECT_TRUE(std::ranges::equal(values_of(log_sum), norm.storage()));
  }
}

TEST_F(AcceleratorArrivals, GradientsOfQueriesComeFirst) {
  const AxisWindow around{AxisWindow::Kind::around, 2, 200}, own, all{AxisWindow::Kind::all, 0, 3};
  const Shape s{2, 3, 12, 9, 32}, per_head{2, 3, 12, 9, 2};
  const Margin m{0, 0, 2, 2, 2, 2};
  for (const bool shared : {false, true}) {
    const AttentionWindow window{shared ? all : own, around, around};
    const TileOrigin origin{20, 30};
    const Tensor q = shared ? random({1, 3, 1, 1, 32}, {}, 1) : random(s, m, 1), k = random(s, m, 2),
                 v = random(s, m, 3), d_o = random(s, m, 4), delta = random(per_head, m, 6);
    Tensor log_sum = random(per_head, m, 5);
    for (float& value : log_sum.storage()) value = 4 + std::abs(value);
    const auto pull = [&](Tensor& queries, Tensor& d, Tensor& sums, Tensor& of_outputs,
                          const Arrival& arrival, Tensor& dq, Tensor& dk, Tensor& dv) {
      const Device device = d.device();
      attend_gradients(queries, k.to(device), v.to(device), d, sums, of_outputs, window, origin, &dq, dk, dv,
                       nullptr, arrival);
    };
    const auto fresh = [](const Shape& shape) {
      Tensor out(shape, {}, Device::gpu);
      out.fill(nan);
      return out;
    };
    Tensor q_all = q.to(Device::gpu), d_all = d_o.to(Device::gpu), sums_all = log_sum.to(Device::gpu),
           delta_all = delta.to(Device::gpu), dq_want = fresh(q.shape()), dk_want = fresh(s),
           dv_want = fresh(s);
    pull(q_all, d_all, sums_all, delta_all, {}, dq_want, dk_want, dv_want);
    Tensor queries = shared ? q.to(Device::gpu) : without_margins(q), d = without_margins(d_o),
           sums = without_margins(log_sum), of_outputs = without_margins(delta), dq = fresh(q.shape()),
           dk = fresh(s), dv = fresh(s);
    int arrivals = 0;
    const auto arrive = [&] {
      ++arrivals;
      EXPECT_EQ(values_of(dq), values_of(dq_want));
      expect_inside_alone(dk, k, {});
      expect_inside_alone(dv, k, {});
      set_values(queries, q.storage());
      set_values(d, d_o.storage());
      set_values(sums, log_sum.storage());
      set_values(of_outputs, delta.storage());
    };
    pull(queries, d, sums, of_outputs, arrive, dq, dk, dv);
    EXPECT_EQ(arrivals, 1);
    EXPECT_EQ(values_of(dq), values_of(dq_want));
    EXPECT_EQ(values_of(dk), values_of(dk_want));
    EXPECT_EQ(values_of(dv), values_of(dv_want));
  }
}

} // namespace
} // namespace pluvia
