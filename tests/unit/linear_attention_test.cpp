// Linear attention over a domain, and its gradients, against its formula in double precision.
#include "pluvia/ops/linear_attention.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/core/random.hpp"

namespace pluvia {
namespace {

constexpr Shape shape{2, 3, 13, 11, 32};

Tensor random(std::uint64_t seed) {
  Tensor t(shape);
  const auto values = t.storage();
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(1.5 * random_normal(seed, RandomPurpose::test, i));
  return t;
}

double feature(double u) {
  return u > 0 ? u + 1 : std::exp(u);
}

using Values = std::vector<double>;

Values doubles_of(const Tensor& t) {
  return {t.storage().begin(), t.storage().end()};
}

/// o, a head of a frame at a time.
Values plain(const Values& q, const Values& k, const Values& v) {
  Values out(q.size());
  const Index cells = shape.y * shape.x, n = head_channels;
  for (Index frame = 0; frame < shape.b * shape.t; ++frame)
    for (Index head = 0; head < shape.c; head += n) {
      const auto at = [&](Index cell, Index c) {
        return static_cast<std::size_t>((frame * cells + cell) * shape.c + head + c);
      };
      Values s(static_cast<std::size_t>(n * n)), z(static_cast<std::size_t>(n));
      for (Index cell = 0; cell < cells; ++cell)
        for (Index i = 0; i < n; ++i) {
          const double f = feature(k[at(cell, i)]);
          z[static_cast<std::size_t>(i)] += f;
          for (Index c = 0; c < n; ++c) s[static_cast<std::size_t>(i * n + c)] += f * v[at(cell, c)];
        }
      for (Index cell = 0; cell < cells; ++cell) {
        double below = 1e-6;
        Values above(static_cast<std::size_t>(n));
        for (Index i = 0; i < n; ++i) {
          const double f = feature(q[at(cell, i)]);
          below += f * z[static_cast<std::size_t>(i)];
          for (Index c = 0; c < n; ++c)
            above[static_cast<std::size_t>(c)] += f * s[static_cast<std::size_t>(i * n + c)];
        }
        for (Index c = 0; c < n; ++c) out[at(cell, c)] = above[static_cast<std::size_t>(c)] / below;
      }
    }
  return out;
}

DomainSums rounded(const OrderFreeSums& sums, float factor) {
  DomainSums out{Tensor(domain_sums_shape(shape)), factor};
  sums.round_to(out.values.storage());
  for (float& value : out.values.storage()) value *= factor;
  return out;
}

OrderFreeSums empty_sums() {
  return OrderFreeSums(static_cast<std::size_t>(domain_sums_shape(shape).size()));
}

DomainSums sums_of(const Tensor& k, const Tensor& v, Index side, float factor) {
  OrderFreeSums sums = empty_sums();
  add_keys(k, v, side, sums);
  return rounded(sums, factor);
}

Tensor attended(const Tensor& q, const DomainSums& sums) {
  Tensor o(shape);
  attend_domain(q, sums, o);
  return o;
}

TEST(LinearAttention, IsItsFormula) {
  const Tensor q = random(1), k = random(2), v = random(3);
  const Values expected = plain(doubles_of(q), doubles_of(k), doubles_of(v));
  for (const Index side : {1, 2, 4}) {
    const Tensor o = attended(q, sums_of(k, v, side, 1)), scaled = attended(q, sums_of(k, v, side, 0x1p-7F));
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(o.storage()[i] - expected[i]));
      EXPECT_EQ(o.storage()[i], scaled.storage()[i]);
    }
    EXPECT_LT(worst, 2e-6) << "side " << side;
  }
}

TEST(LinearAttention, GradientsAreThoseOfItsFormula) {
  const Tensor q = random(1), k = random(2), v = random(3), g = random(4);
  const DomainSums sums = sums_of(k, v, 4, 0x1p-7F);
  Tensor dq(shape), dk(shape), dv(shape);
  OrderFreeSums d_sums = empty_sums();
  pull_domain_queries(q, attended(q, sums), g, sums, 4, dq, d_sums);
  pull_domain_keys(k, v, rounded(d_sums, sums.factor).values, dk, dv);

  std::vector<Values> inputs{doubles_of(q), doubles_of(k), doubles_of(v)};
  const Values weights = doubles_of(g);
  const auto loss = [&] {
    const Values o = plain(inputs[0], inputs[1], inputs[2]);
    return std::inner_product(o.begin(), o.end(), weights.begin(), 0.0);
  };
  const Tensor* gradients[] = {&dq, &dk, &dv};
  for (std::size_t which = 0; which < 3; ++which) {
    double worst = 0, scale = 0;
    for (std::uint64_t i = 0; i < 40; ++i) {
      const auto element = static_cast<std::size_t>(
          random_below(static_cast<std::uint64_t>(shape.size()), 5, RandomPurpose::test, i, which));
      double& value = inputs[which][element];
      const double at = value, step = 1e-5;
      value = at + step;
      const double up = loss();
      value = at - step;
      const double numeric = (up - loss()) / (2 * step);
      value = at;
      worst = std::max(worst, std::abs(numeric - gradients[which]->storage()[element]));
      scale = std::max(scale, std::abs(numeric));
    }
    EXPECT_GT(scale, 1e-3);
    EXPECT_LT(worst, 2e-5 * scale) << "of input " << which;
  }
}

TEST(LinearAttention, SumsThatAreOutOfRangeAreNoNumbers) {
  const Tensor q = random(1), k = random(2);
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::nanf(""), 0x1p24F}) {
    Tensor v = random(3);
    v.cell(1, 1, 5, 5)[20] = wrong;
    const Tensor o = attended(q, sums_of(k, v, 4, 1));
    EXPECT_TRUE(std::isnan(o.cell(0, 0, 0, 0)[0])) << wrong;
  }
}

} // namespace
} // namespace pluvia
