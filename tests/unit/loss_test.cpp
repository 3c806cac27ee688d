// What the loss and probabilities of a cell say when the network does not.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "pluvia/ops/loss.hpp"

namespace pluvia {
namespace {

TEST(Loss, IsNoNumberWhereALogitIsNone) {
  constexpr Index classes = 4;
  for (Index bad = -1; bad < classes; ++bad) {
    const Var logits = Tape::leaf(Tensor({1, 1, 1, 1, classes}));
    float* const z = logits->value.cell(0, 0, 0, 0);
    for (Index k = 0; k < classes; ++k)
      z[k] = k == bad ? std::numeric_limits<float>::quiet_NaN() : 0.5F * static_cast<float>(k);
    std::vector<float> above(classes - 1);
    exceedance(z, classes, above.data());
    const Tape tape(Tape::Mode::record);
    const double loss = ordinal_loss(logits, {{2}, {1.0F}}, tape).value();
    const bool number = bad < 0;
    EXPECT_EQ(std::isfinite(loss), number) << bad;
    for (const float p : above) EXPECT_EQ(std::isfinite(p), number) << bad;
    for (const float g : logits->grad.storage()) EXPECT_EQ(std::isfinite(g), number) << bad;
  }
}

} // namespace
} // namespace pluvia
