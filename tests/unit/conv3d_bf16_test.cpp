// The convolution in bf16 and its gradients against plain sums in double precision of inputs rounded to bf16.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/core/random.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {
namespace {

Tensor random(const Shape& shape, Margin margin, std::uint64_t seed) {
  Tensor t(shape, margin);
  const auto values = t.storage();
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_normal(seed, RandomPurpose::test, i));
  return t;
}

double rounded(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fffU + ((bits >> 16) & 1U)) & 0xffff0000U);
}

/// f(output cell, input cell, tap), over all cells and taps.
template <class F> void walk(const Shape& s, const Stencil& k, F&& f) {
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; ++t)
      for (Index y = 0; y < s.y; ++y)
        for (Index x = 0; x < s.x; ++x)
          for (int tap = 0; tap < k.taps(); ++tap)
            f(b, t, y, x, t + tap / k.x / k.y + k.t_first, y + tap / k.x % k.y + k.y_first,
              x + tap % k.x + k.x_first, tap);
}

void expect_near(const std::vector<double>& want, const Tensor& is, const Shape& s, double tolerance) {
  double worst = 0, scale = 0;
  std::size_t i = 0;
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; ++t)
      for (Index y = 0; y < s.y; ++y)
        for (Index n = 0; n < s.x * s.c; ++n, ++i) {
          worst = std::max(worst, std::abs(want[i] - is.cell(b, t, y, 0)[n]));
          scale = std::max(scale, std::abs(want[i]));
        }
  EXPECT_GT(scale, 1.0);
  EXPECT_LT(worst, tolerance * scale);
}

std::size_t place(const Shape& s, Index b, Index t, Index y, Index x, Index c) {
  return static_cast<std::size_t>((((b * s.t + t) * s.y + y) * s.x + x) * s.c + c);
}

TEST(Conv3dBf16, AgreesWithPlainSumsOfRoundedValues) {
  if (!has_native_bf16()) GTEST_SKIP() << "this processor does not multiply bf16";
  for (const Stencil& k : {causal_stencil(3, 3, 3), causal_stencil(1, 3, 3), Stencil{}})
    for (const auto& [height, width] :
         {std::pair<Index, Index>{4, 5}, {33, 16}, {1, 9}, {4, 37}}) // 33: more than a run
      for (const Index c_in : {6, 16, 40, 144})
        for (const Index c_out : {7, 16, 48}) {
          SCOPED_TRACE(testing::Message()
                       << k.taps() << " taps, width " << width << ", " << c_in << " to " << c_out);
          const Shape in{2, 3, height, width, c_in}, out{2, 3, height, width, c_out},
              w{k.t, k.y, k.x, c_in, c_out};
          Margin m = reach(k);
          if (height == 33) ++m.t_lo, ++m.y_lo, ++m.x_lo, ++m.x_hi; // more than is read
          const Tensor x = random(in, m, 1), weight = random(w, {}, 2),
                       dy = random(out, reach(transposed(k)), 3);
          const Tensor residual = random(out, {}, 4), bias = random({1, 1, 1, 1, c_out}, {}, 5);

          Tensor y(out);
          convolution(Precision::bf16, x, weight, k, bias.storage().data(), &residual, y);
          std::vector<double> want(static_cast<std::size_t>(out.size())),
              dw(static_cast<std::size_t>(w.size())), db(static_cast<std::size_t>(c_out));
          const auto wv = weight.storage();
          walk(out, k, [&](Index b, Index t, Index yy, Index xx, Index ft, Index fy, Index fx, int tap) {
            const float *from = x.cell(b, ft, fy, fx), *d = dy.cell(b, t, yy, xx);
            for (Index co = 0; co < c_out; ++co)
              for (Index ci = 0; ci < c_in; ++ci) {
                const auto i = static_cast<std::size_t>((tap * c_in + ci) * c_out + co);
                want[place(out, b, t, yy, xx, co)] += rounded(from[ci]) * rounded(wv[i]);
                dw[i] += rounded(from[ci]) * rounded(d[co]);
              }
            for (Index co = 0; co < c_out && tap == 0; ++co) {
              want[place(out, b, t, yy, xx, co)] +=
                  bias.storage()[static_cast<std::size_t>(co)] + residual.cell(b, t, yy, xx)[co];
              db[static_cast<std::size_t>(co)] += d[co];
            }
          });
          expect_near(want, y, out, 3e-6);

          Tensor dw_is = Tensor::zeros(w), db_is = Tensor::zeros({1, 1, 1, 1, c_out});
          convolution_pull_weight(Precision::bf16, x, dy, k, dw_is, db_is.storage().data());
          expect_near(dw, dw_is, w, 3e-6);
          expect_near(db, db_is, db_is.shape(), 3e-6);

          Tensor dx = random(in, {}, 6);
          std::vector<double> dx_want;
          for (const float v : dx.storage()) dx_want.push_back(v);
          convolution_pull_input(Precision::bf16, dy, weight, k, &dx, dx);
          const Stencil back = transposed(k);
          walk(in, back, [&](Index b, Index t, Index yy, Index xx, Index ft, Index fy, Index fx, int tap) {
            const float* d = dy.cell(b, ft, fy, fx);
            for (Index co = 0; co < c_out; ++co)
              for (Index ci = 0; ci < c_in; ++ci)
                dx_want[place(in, b, t, yy, xx, ci)] +=
                    rounded(d[co]) *
                    rounded(wv[static_cast<std::size_t>(((back.taps() - 1 - tap) * c_in + ci) * c_out + co)]);
          });
          expect_near(dx_want, dx, in, 3e-6);
        }
}

// What others send may still be missing while the outputs inside are computed.
TEST(Conv3dBf16, PartsAreTheSameBitsAsTheWhole) {
  if (!has_native_bf16()) GTEST_SKIP() << "this processor does not multiply bf16";
  const Stencil k = causal_stencil(3, 3, 3);
  for (const Index c_in : {5, 48}) {
    const Shape in{2, 5, 9, 41, c_in}, out{2, 5, 9, 41, 24};
    Tensor x = random(in, reach(k), 1);
    const Tensor weight = random({3, 3, 3, c_in, out.c}, {}, 2), residual = random(out, {}, 3);
    Tensor y(out), parts(out);
    convolution(Precision::bf16, x, weight, k, nullptr, &residual, y);
    parts.fill(0.0F);

    const Margin m = reach(k);
    const auto for_margins = [&](auto&& f) {
      for (Index b = 0; b < in.b; ++b)
        for (Index t = -m.t_lo; t < in.t + m.t_hi; ++t)
          for (Index row = -m.y_lo; row < in.y + m.y_hi; ++row)
            for (Index col = -m.x_lo; col < in.x + m.x_hi; ++col)
              if (t < 0 || row < 0 || row >= in.y || col < 0 || col >= in.x)
                for (Index c = 0; c < c_in; ++c) f(x.cell(b, t, row, col)[c]);
    };
    std::vector<float> margins;
    for_margins([&](float& v) {
      margins.push_back(v);
      v = std::numeric_limits<float>::quiet_NaN();
    });
    const auto arrive = [&] {
      EXPECT_EQ(parts.cell(1, 3, 7, 32)[0], 0.0F) << "no more than was asked for";
      EXPECT_EQ(parts.cell(1, 3, 7, 31)[0], y.cell(1, 3, 7, 31)[0]);
      std::size_t i = 0;
      for_margins([&](float& v) { v = margins[i++]; });
    };
    convolution(Precision::bf16, x, weight, k, nullptr, &residual, parts,
                split_around({{2, 4}, {1, 8}, {16, 32}}, out), arrive);
    EXPECT_TRUE(std::ranges::equal(parts.storage(), y.storage()));
  }
}

// A cell's output has the same bits wherever a tile begins and ends, and nothing depends on the threads.
TEST(Conv3dBf16, SameBitsOnTilesAndThreads) {
  if (!has_native_bf16()) GTEST_SKIP() << "this processor does not multiply bf16";
  const int threads = omp_get_max_threads();
  for (const Stencil& k : {causal_stencil(3, 3, 3), causal_stencil(1, 3, 3), Stencil{}})
    for (const Index c_in : {5, 48})
      for (const Index c_out : {7, 40}) {
        SCOPED_TRACE(testing::Message() << k.taps() << " taps, " << c_in << " to " << c_out);
        const Shape in{1, 3, 5, 45, c_in}, out{1, 3, 5, 45, c_out}, w{k.t, k.y, k.x, c_in, c_out};
        const Tensor x = random(in, reach(k), 1), weight = random(w, {}, 2), dy = random(out, {}, 3);
        const auto everything = [&](int n) {
          omp_set_num_threads(n);
          Tensor y(out), dw = Tensor::zeros(w), db = Tensor::zeros({1, 1, 1, 1, c_out});
          convolution(Precision::bf16, x, weight, k, nullptr, nullptr, y);
          convolution_pull_weight(Precision::bf16, x, dy, k, dw, db.storage().data());
          std::vector<float> values;
          for (const Tensor* t : {&y, &dw, &db})
            values.insert(values.end(), t->storage().begin(), t->storage().end());
          return values;
        };
        const std::vector<float> whole = everything(1);
        EXPECT_EQ(whole, everything(3));
        for (const Index first : {0, 1, 17})
          for (const Index width : {1, 12, 28}) {
            const Shape part_in{1, 3, 5, width, c_in}, part_out{1, 3, 5, width, c_out};
            Tensor part(part_in, reach(k)), y(part_out);
            const Margin m = reach(k);
            for (Index t = -m.t_lo; t < 3 + m.t_hi; ++t)
              for (Index row = -m.y_lo; row < 5 + m.y_hi; ++row)
                std::copy_n(x.cell(0, t, row, first - m.x_lo), (width + m.x_lo + m.x_hi) * c_in,
                            part.cell(0, t, row, -m.x_lo));
            convolution(Precision::bf16, part, weight, k, nullptr, nullptr, y);
            bool same = true;
            for (Index t = 0; t < 3; ++t)
              for (Index row = 0; row < 5; ++row)
                same = same && std::equal(y.cell(0, t, row, 0), y.cell(0, t, row, width),
                                          whole.begin() + ((t * 5 + row) * 45 + first) * c_out);
            EXPECT_TRUE(same) << width << " cells from " << first;
          }
      }
  omp_set_num_threads(threads);
}

} // namespace
} // namespace pluvia
