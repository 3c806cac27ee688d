#pragma once
#include <cassert>
#include <span>

#include "pluvia/core/for_cells.hpp"
#include "pluvia/ops/output_parts.hpp"

namespace pluvia::kernels {

/// Goes through a few parts of a tensor in one launch, so that thin ones are worked on at once.
template <class F> struct PerRun {
  static constexpr int most = 6;
  OutputPart parts[most];
  Index ends[most]; ///< of each part's runs
  Index samples, longest, n;
  F f;
  PLUVIA_ANYWHERE void operator()(Index i) const {
    const Division d = divide(i, n);
    int p = 0;
    while (d.quotient >= ends[p]) ++p;
    const OutputPart& part = parts[p];
    const Shape runs{samples, part.t.size(), part.y.size(),
                     divide(part.x.size() + longest - 1, longest).quotient, 1};
    CellAt at = cell_at(runs, p > 0 ? d.quotient - ends[p - 1] : d.quotient);
    at.t += part.t.from;
    at.y += part.y.from;
    at.x = part.x.from + at.x * longest;
    const Index left = part.x.to - at.x;
    f(at, left < longest ? left : longest, d.rest);
  }
};

/// Calls f(first cell, cells, k) for k in [0, n) of every run of at most `longest` neighbouring cells of a
/// row of some parts, or of all cells of the shape where there are none; neighbouring k side by side.
template <class F>
void for_runs(const Shape& s, std::span<const OutputPart> parts, Index longest, Index n, F f) {
  const OutputPart whole{{0, s.t}, {0, s.y}, {0, s.x}};
  if (parts.empty()) parts = {&whole, 1};
  assert(parts.size() <= PerRun<F>::most);
  PerRun<F> kernel{{}, {}, s.b, longest, n, f};
  Index runs = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& [t, y, x] = kernel.parts[i] = parts[i];
    runs += s.b * t.size() * y.size() * ((x.size() + longest - 1) / longest);
    kernel.ends[i] = runs;
  }
  launch(runs * n, kernel);
}

} // namespace pluvia::kernels
