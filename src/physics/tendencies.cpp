#include "pluvia/physics/tendencies.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace pluvia {

namespace {

/// Limited slope from the differences to both neighbours (monotonised central).
inline double slope(double behind, double ahead) {
  const double size =
      std::min(2 * std::min(std::abs(behind), std::abs(ahead)), 0.5 * std::abs(behind + ahead));
  return behind * ahead > 0 ? std::copysign(size, ahead) : 0.0;
}

struct Sides {
  double left, right;
};

/// Values on both sides of the face between cells 1 and 2 of four neighbours.
inline Sides reconstruct(const double* p, Index stride) {
  const double a = p[-2 * stride], b = p[-stride], c = p[0], d = p[stride];
  return {b + 0.5 * slope(b - a, c - b), c - 0.5 * slope(c - b, d - c)};
}

} // namespace

Tendencies::Tendencies(const ShallowWaterPhysics& physics, ShallowWaterTile tile)
    : physics_(physics), tile_(std::move(tile)) {
  const Index g = 2 * ShallowWaterTile::ghosts;
  for (auto* field : {&h_, &u_, &v_, &q_, &w_})
    field->resize(static_cast<std::size_t>((tile_.height + g) * (tile_.width + g)));
  for (auto* flux : {&x_, &south_, &north_})
    for (auto& values : *flux) values.resize(static_cast<std::size_t>(tile_.width + 1));
}

// `first` is the cell after the first face.
void Tendencies::faces(Index count, Index first, Index stride, const double* normal, const double* transverse,
                       double steering, Fluxes& flux) const {
  const double gravity = physics_.gravity;
  const double *h = h_.data() + first, *n = normal + first, *t = transverse + first;
  const double *q = q_.data() + first, *w = w_.data() + first;
  double *fh = flux[0].data(), *fn = flux[1].data(), *ft = flux[2].data(), *fq = flux[3].data(),
         *fw = flux[4].data();
#pragma GCC ivdep
  for (Index i = 0; i < count; ++i) {
    const Sides hs = reconstruct(h + i, stride), ns = reconstruct(n + i, stride),
                ts = reconstruct(t + i, stride);
    const Sides qs = reconstruct(q + i, stride), ws = reconstruct(w + i, stride);
    const double ul = ns.left + steering, ur = ns.right + steering;
    const double cl = std::sqrt(gravity * hs.left), cr = std::sqrt(gravity * hs.right);
    // The fastest waves to both sides; 0 between them, so that supercritical flow needs no branch.
    const double sl = std::min(std::min(ul - cl, ur - cr), 0.0);
    const double sr = std::max(std::max(ul + cl, ur + cr), 0.0);
    const double inverse = 1 / (sr - sl);
    const double ml = hs.left * ul, mr = hs.right * ur;
    const double pl = 0.5 * gravity * hs.left * hs.left, pr = 0.5 * gravity * hs.right * hs.right;
    const double mass = (sr * ml - sl * mr + sl * sr * (hs.right - hs.left)) * inverse;
    fh[i] = mass;
    fn[i] = (sr * (ml * ns.left + pl) - sl * (mr * ns.right + pr) +
             sl * sr * (hs.right * ns.right - hs.left * ns.left)) *
            inverse;
    ft[i] = mass * (mass > 0 ? ts.left : ts.right);
    fq[i] = mass * (mass > 0 ? qs.left : qs.right);
    fw[i] = mass * (mass > 0 ? ws.left : ws.right);
  }
}

void Tendencies::sources(Index row, const ShallowWaterDrive& drive, double scale,
                         ShallowWaterCell* rates) const {
  const ShallowWaterPhysics& p = physics_;
  const Index pitch = tile_.width + 2 * ShallowWaterTile::ghosts;
  const Index first = (row + ShallowWaterTile::ghosts) * pitch + ShallowWaterTile::ghosts;
  const auto at = static_cast<std::size_t>(row);
  const double coriolis = tile_.coriolis[at], turning = coriolis - tile_.steering_shear[at];
  const double steering = tile_.steering[at], saturation = tile_.saturation[at];
  const double spread = p.spread * saturation;
  const double *land = tile_.land.data() + row * tile_.width, *sun = drive.sun.data();
  const double *before = drive.before.data() + row * tile_.width,
               *after = drive.after.data() + row * tile_.width;
  const double* south[variables] = {south_[0].data(), south_[1].data(), south_[2].data(), south_[3].data(),
                                    south_[4].data()};
  const double inverse_cell = 1 / tile_.cell_m, mean_sun = std::numbers::inv_pi;
#pragma GCC ivdep
  for (Index i = 0; i < tile_.width; ++i) {
    const Index c = first + i;
    const double h = h_[static_cast<std::size_t>(c)], u = u_[static_cast<std::size_t>(c)],
                 v = v_[static_cast<std::size_t>(c)];
    const double q = q_[static_cast<std::size_t>(c)] * h, w = w_[static_cast<std::size_t>(c)] * h;
    const auto k = static_cast<std::size_t>(i);

    const double deficit = std::max(saturation - q, 0.0);
    // Mean excess where saturation is spread evenly over the cell between q_s - s and q_s + s.
    const double excess = q - saturation, above = std::min(std::max(excess + spread, 0.0), 2 * spread);
    const double condensation =
        (above * above / (4 * spread) + std::max(excess - spread, 0.0)) / p.condensation_time;
    const double cloud_evaporation = w * (deficit / saturation) / p.cloud_evaporation_time;
    const double rain = std::max(w - p.rain_threshold, 0.0) / p.rain_time;
    const double wind = std::sqrt((u + steering) * (u + steering) + v * v);
    const double wetness = 1 + land[i] * (p.land_evaporation * sun[i] / mean_sun - 1);
    const double evaporation = wetness * (0.25 + 0.125 * wind) * deficit / p.evaporation_time;

    const double forcing = before[i] + drive.weight * (after[i] - before[i]);
    const double thickening =
        (p.equilibrium_depth + p.depth * p.forcing * forcing - h) / p.cooling_time -
        (1 - p.moist_stability) * h / std::max(q, saturation) * (condensation - cloud_evaporation) -
        p.depth * p.land_heating * land[i] * (sun[i] - mean_sun);

    // The steering wind is a mean flow of its own: its shear acts on v, its Coriolis force is balanced.
    const double drag = 1 / p.drag_time + p.drag_per_m * std::sqrt(u * u + v * v);
    const double accelerate_x = turning * v - u * drag;
    const double accelerate_y = -coriolis * u - v * drag;

    const auto divergence = [&](int variable, const Fluxes& x, const Fluxes& north) {
      return (x[variable][k + 1] - x[variable][k] + (north[variable][k] - south[variable][k])) * inverse_cell;
    };
    rates[i].thickness = scale * (thickening - divergence(0, x_, north_));
    // Across y faces the normal momentum is h v, the transverse one h u.
    rates[i].momentum_x = scale * (h * accelerate_x + u * thickening -
                                   (x_[1][k + 1] - x_[1][k] + (north_[2][k] - south[2][k])) * inverse_cell);
    rates[i].momentum_y = scale * (h * accelerate_y + v * thickening -
                                   (x_[2][k + 1] - x_[2][k] + (north_[1][k] - south[1][k])) * inverse_cell);
    rates[i].vapour = scale * (evaporation - condensation + cloud_evaporation - divergence(3, x_, north_));
    rates[i].cloud = scale * (condensation - cloud_evaporation - rain - divergence(4, x_, north_));
    rates[i].rain = scale * rain;
    rates[i].evaporation = scale * evaporation;
  }
}

void Tendencies::compute(const ShallowWaterCell* state, const ShallowWaterDrive& drive, double scale,
                         ShallowWaterCell* rates) {
  const Index g = ShallowWaterTile::ghosts, pitch = tile_.width + 2 * g;
  for (std::size_t i = 0; i < h_.size(); ++i) {
    // Corners are never read; they may hold anything.
    const ShallowWaterCell& cell = state[i];
    const double inverse = 1 / cell.thickness;
    h_[i] = cell.thickness;
    u_[i] = cell.momentum_x * inverse;
    v_[i] = cell.momentum_y * inverse;
    q_[i] = cell.vapour * inverse;
    w_[i] = cell.cloud * inverse;
  }
  faces(tile_.width, g * pitch + g, pitch, v_.data(), u_.data(), 0, south_);
  for (Index row = 0; row < tile_.height; ++row) {
    const Index first = (row + g) * pitch + g;
    faces(tile_.width + 1, first, 1, u_.data(), v_.data(), tile_.steering[static_cast<std::size_t>(row)], x_);
    faces(tile_.width, first + pitch, pitch, v_.data(), u_.data(), 0, north_);
    sources(row, drive, scale, rates + row * tile_.width);
    std::swap(south_, north_);
  }
}

} // namespace pluvia
