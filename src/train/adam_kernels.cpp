#include "adam_kernels.hpp"

#include "adam_step.hpp"
#include "pluvia/core/for_cells.hpp"

namespace pluvia::kernels {

void gradient_norm(const DeviceArray<AdamPiece>& pieces, double* norm) {
  constexpr Index lanes = 32, parts = 256;
  const auto n = static_cast<Index>(pieces.size()) * lanes;
  DeviceArray<double> squares(static_cast<std::size_t>(n)), sums(parts);
  const AdamPiece* const all = pieces.data();
  double *const of_lane = squares.data(), *const of_part = sums.data();
  launch(n, [=] PLUVIA_ANYWHERE(Index i) {
    const AdamPiece& piece = all[i / lanes];
    double sum = 0;
    for (Index k = i % lanes; k < piece.size; k += lanes)
      sum += static_cast<double>(piece.grad[k]) * piece.grad[k];
    of_lane[i] = sum;
  });
  launch(parts, [=] PLUVIA_ANYWHERE(Index part) {
    double sum = 0;
    for (Index i = part; i < n; i += parts) sum += of_lane[i];
    of_part[part] = sum;
  });
  launch(1, [=] PLUVIA_ANYWHERE(Index) {
    double sum = 0;
    for (Index part = 0; part < parts; ++part) sum += of_part[part];
    *norm = std::sqrt(sum);
  });
}

void update(const DeviceArray<AdamPiece>& pieces, Index longest, const AdamRates* rates, double clip_norm,
            const double* norm) {
  const AdamPiece* const all = pieces.data();
  launch(static_cast<Index>(pieces.size()) * longest, [=] PLUVIA_ANYWHERE(Index i) {
    const Division d = divide(i, longest);
    const AdamPiece& p = all[d.quotient];
    const Index n = d.rest;
    if (n >= p.size || !(*norm < 1e300)) return; // that of f32 values is below 1e40, or not finite
    const double clip = clip_norm / *norm;
    adam_step(p.grad[n], p.decays ? rates->shrink : 0.0F, *rates, static_cast<float>(clip < 1 ? clip : 1.0),
              p.value[n], p.first[n], p.second[n], p.average[n]);
  });
}

} // namespace pluvia::kernels
