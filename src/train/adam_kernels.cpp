#include "adam_kernels.hpp"

#include "adam_step.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

void update(const std::vector<AdamPiece>& pieces, const AdamRates& rates) {
  Index longest = 0;
  for (const AdamPiece& p : pieces) longest = longest < p.size ? p.size : longest;
  const DeviceArray<AdamPiece> there(pieces);
  const AdamPiece* const all = there.data();
  launch(static_cast<Index>(pieces.size()) * longest, [=] PLUVIA_ANYWHERE(Index i) {
    const Division d = divide(i, longest);
    const AdamPiece& p = all[d.quotient];
    const Index n = d.rest;
    if (n < p.size) adam_step(p.grad[n], p.shrink, rates, p.value[n], p.first[n], p.second[n], p.average[n]);
  });
}

std::vector<double> squares(const std::vector<AdamPiece>& pieces) {
  const DeviceArray<AdamPiece> there(pieces);
  DeviceArray<double> sums(pieces.size());
  const AdamPiece* const all = there.data();
  double* const to = sums.data();
  launch(static_cast<Index>(pieces.size()), [=] PLUVIA_ANYWHERE(Index i) {
    double sum = 0;
    for (Index n = 0; n < all[i].size; ++n) sum += static_cast<double>(all[i].grad[n]) * all[i].grad[n];
    to[i] = sum;
  });
  return sums.values();
}

} // namespace pluvia::kernels
