// The convolution against an independent implementation: oneDNN's, on the same channels-last buffers; and
// sums over more cells than one round of an accelerator takes.
#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "pluvia/core/random.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {
namespace {

using dnnl::memory;
constexpr auto f32 = memory::data_type::f32;

void fill(std::span<float> values, std::uint64_t seed) {
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_normal(seed, RandomPurpose::test, i));
}

/// oneDNN's 3 x 3 x 3 convolution of a buffer that already holds its margins; weights [t, y, x, C_in, C_out].
std::vector<float> onednn(Tensor& x, Tensor& weight, const Shape& out) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const Index c_in = x.shape().c;
  const memory::desc source({out.b, c_in, out.t + 2, out.y + 2, out.x + 2}, f32, memory::format_tag::ndhwc),
      ours({out.c, c_in, 3, 3, 3}, f32, memory::format_tag::dhwio),
      any({out.c, c_in, 3, 3, 3}, f32, memory::format_tag::any),
      result({out.b, out.c, out.t, out.y, out.x}, f32, memory::format_tag::ndhwc);
  const dnnl::convolution_forward::primitive_desc description({dnnl::prop_kind::forward_inference,
                                                               dnnl::algorithm::convolution_direct,
                                                               source,
                                                               any,
                                                               result,
                                                               {1, 1, 1},
                                                               {0, 0, 0},
                                                               {0, 0, 0}},
                                                              engine);
  std::vector<float> y(static_cast<std::size_t>(out.size()));
  memory from(source, engine, x.storage().data()), plain(ours, engine, weight.storage().data()),
      packed(description.weights_desc(), engine), to(result, engine, y.data());
  dnnl::reorder(plain, packed).execute(stream, plain, packed);
  dnnl::convolution_forward(description)
      .execute(stream, {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, to}});
  stream.wait();
  return y;
}

TEST(Conv3d, AgreesWithAnIndependentImplementation) {
  const Stencil stencil = causal_stencil(3, 3, 3);
  for (const Index c_in : {5, 16, 40})
    for (const Index c_out : {7, 16, 48}) {
      const Shape s{2, 3, 7, 9, c_in};
      Shape out = s;
      out.c = c_out;
      Tensor x(s, reach(stencil)), weight({3, 3, 3, c_in, c_out}), y(out);
      fill(x.storage(), 1);
      fill(weight.storage(), 2);
      convolve(x, pack(weight, stencil), nullptr, nullptr, y);
      const std::vector<float> theirs = onednn(x, weight, out);
      double worst = 0, scale = 0;
      for (std::size_t i = 0; i < theirs.size(); ++i) {
        worst = std::max(worst, std::abs(static_cast<double>(theirs[i]) - y.storage()[i]));
        scale = std::max(scale, std::abs(static_cast<double>(theirs[i])));
      }
      EXPECT_GT(scale, 1.0);
      EXPECT_LT(worst, 3e-6 * scale) << c_in << " to " << c_out << " channels";
    }
}

TEST(Conv3d, PartsAreTheSameBitsAsTheWhole) {
  const Stencil stencil = causal_stencil(3, 3, 3);
  for (const Index c_out : {7, 48}) {
    const Shape s{2, 4, 9, 31, 16}, out{2, 4, 9, 31, c_out};
    Tensor x(s, reach(stencil)), weight({3, 3, 3, s.c, c_out}), residual(out), y(out), parts(out);
    fill(x.storage(), 1), fill(weight.storage(), 2), fill(residual.storage(), 3);
    parts.fill(0.0F);
    const PackedWeights w = pack(weight, stencil);
    convolve(x, w, nullptr, &residual, y);
    const std::vector<OutputPart> inside{{{2, 4}, {1, 8}, {1, 25}}}, rim{{{0, 2}, {0, 9}, {0, 31}},
                                                                         {{2, 4}, {0, 1}, {0, 31}},
                                                                         {{2, 4}, {8, 9}, {0, 31}},
                                                                         {{2, 4}, {1, 8}, {0, 1}},
                                                                         {{2, 4}, {1, 8}, {25, 31}}};
    convolve(x, w, nullptr, &residual, parts, inside);
    EXPECT_EQ(parts.cell(1, 3, 7, 25)[0], 0.0F) << "no more than was asked for";
    convolve(x, w, nullptr, &residual, parts, rim);
    EXPECT_TRUE(std::ranges::equal(parts.storage(), y.storage()));
  }
}

TEST(Conv3d, GradientsOfManyCellsAddUpOnTheAccelerator) {
  if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  // More cells than are added up in two rounds, of whole numbers, which no order rounds.
  const Shape s{1, 1, 300, 301, 3};
  Tensor x(s), dy(s), dw = Tensor::zeros({1, 1, 1, s.c, s.c}, {}, Device::gpu),
                      db = Tensor::zeros({1, 1, 1, 1, s.c}, {}, Device::gpu);
  std::vector<float> of_weight(static_cast<std::size_t>(s.c * s.c)), of_bias(static_cast<std::size_t>(s.c));
  for (Index i = 0; i < s.cells(); ++i) {
    float *from = x.storage().data() + i * s.c, *d = dy.storage().data() + i * s.c;
    for (Index c = 0; c < s.c; ++c) {
      const auto number = static_cast<std::uint64_t>(i * s.c + c);
      from[c] = static_cast<float>(random_below(4, 1, RandomPurpose::test, number));
      d[c] = static_cast<float>(random_below(4, 2, RandomPurpose::test, number));
    }
    for (Index co = 0; co < s.c; ++co) {
      of_bias[static_cast<std::size_t>(co)] += d[co];
      for (Index ci = 0; ci < s.c; ++ci)
        of_weight[static_cast<std::size_t>(ci * s.c + co)] += from[ci] * d[co];
    }
  }
  convolution_pull_weight(Precision::f32, x.to(Device::gpu), dy.to(Device::gpu), {}, dw, db.cell(0, 0, 0, 0));
  EXPECT_EQ(values_of(dw), of_weight);
  EXPECT_EQ(values_of(db), of_bias);
}

} // namespace
} // namespace pluvia
