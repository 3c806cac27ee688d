#pragma once
#include <functional>
#include <span>
#include <vector>

#include "pluvia/core/span.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Some frames, rows and columns of an output.
struct OutputPart {
  Span t, y, x;
};

/// Outputs that need nothing of margins that are still on their way, and the others: where nothing is inside,
/// all of them.
struct Split {
  std::vector<OutputPart> inside, rim;
};
/// All cells of a shape, with nothing inside where that part is empty.
Split split_around(const OutputPart& inside, const Shape& s);
/// The same for an accelerator, with nothing inside where that part has fewer cells than this, all of which a
/// GPU works on at once: a second launch, for the rim, would take it as long again. Not measured.
constexpr Index worth_two_launches = 1 << 14;
Split split_launches(const OutputPart& inside, const Shape& s);

/// Fills margins that are still on their way, and is called once: what needs none of them comes before.
using Arrival = std::function<void()>;

/// Calls compute(parts) for what is inside, the arrival where there is one, and compute(parts) for the rest;
/// no parts stand for all outputs.
template <class Compute> void compute_around(const Arrival& arrival, const Split& split, Compute&& compute) {
  if (!split.inside.empty()) compute(std::span(split.inside));
  if (arrival) arrival();
  if (split.inside.empty() || !split.rim.empty()) compute(std::span(split.rim));
}

} // namespace pluvia
