#pragma once
#include <span>
#include <vector>

#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Constants of the moist shallow-water equations (see physics/shallow_water.hpp for the equations).
struct ShallowWaterPhysics {
  double gravity = 0.125;          ///< reduced gravity g [m s-2]
  double depth = 5000;             ///< thickness at the start H [m]; sqrt(g H) = 25 m s-1
  double equilibrium_depth = 5700; ///< radiative equilibrium thickness [m]
  double cooling_time = 2 * 86400; ///< relaxation to it [s]
  double drag_time = 3 * 86400;    ///< of the velocity [s]
  double saturation = 60;          ///< column vapour at saturation, at most [mm]
  double moist_stability = 0.08;   ///< gamma: mass that converging saturated air keeps, in (0, 1]
  double drag_per_m = 5e-6;        ///< turbulent drag of the velocity, times its speed [m-1]
  double spread = 0.06;            ///< of saturation inside a cell, relative: condensation sets in gently
  double condensation_time = 3600; ///< [s]
  double cloud_evaporation_time = 6 * 3600; ///< into dry air [s]
  double rain_threshold = 0.5;              ///< cloud water that stays aloft [mm]
  double rain_time = 2400;                  ///< conversion of cloud water to rain [s]
  double evaporation_time = 60000;          ///< of the deficit, from the sea in a wind of 6 m s-1 [s]
  double land_evaporation = 0.7;            ///< relative to the sea, mean of the day
  double land_heating = 5e-6;               ///< divergence over land at the height of the day [s-1]
  double forcing = 0.38; ///< amplitude of the random large-scale forcing, relative to depth
  double steering = 6;   ///< easterly wind at the equator [m s-1]
};

/// One cell as it is integrated; conserved quantities per unit area.
struct ShallowWaterCell {
  double thickness;   ///< h [m]
  double momentum_x;  ///< h u, without the steering wind [m2 s-1]
  double momentum_y;  ///< h v [m2 s-1]
  double vapour;      ///< column vapour q [mm]
  double cloud;       ///< column cloud water w [mm]
  double rain;        ///< fallen since the last frame [mm]
  double evaporation; ///< risen since the last frame [mm]
};

/// Constant fields of one rank's tile.
struct ShallowWaterTile {
  static constexpr Index ghosts = 2; ///< cells on each side that the stencil reads
  Index height = 0, width = 0;       ///< cells without ghosts
  double cell_m = 0;
  std::vector<double> coriolis, steering, steering_shear, saturation; ///< per row: f, U, dU/dy, q_s
  std::vector<double> land;                                           ///< per cell: share of land
};

/// What drives a tile at one moment.
struct ShallowWaterDrive {
  std::span<const double> sun;    ///< per column: cosine of the local hour angle, at least 0
  std::span<const double> before; ///< per cell: large-scale forcing at an earlier hour ...
  std::span<const double> after;  ///< ... and at the next one
  double weight = 0;              ///< of `after`
};

/// Rates of change of a tile by finite volumes: limited linear reconstruction (van Leer 1977, monotonised
/// central), HLL mass and normal momentum fluxes (Harten, Lax and van Leer 1983), everything else upwind with
/// the mass flux (HLLC). Only basic IEEE operations on the cell's neighbours: the same bits on any tiling.
class Tendencies {
public:
  Tendencies(const ShallowWaterPhysics& physics, ShallowWaterTile tile);
  const ShallowWaterTile& tile() const { return tile_; }

  /// rates [height x width] = scale * d(state)/dt; `state` has the ghost cells around it, row-major. Local.
  void compute(const ShallowWaterCell* state, const ShallowWaterDrive& drive, double scale,
               ShallowWaterCell* rates);

private:
  static constexpr int variables = 5; ///< h, u, v, q/h, w/h
  using Fluxes = std::vector<double>[variables];

  void faces(Index count, Index first, Index stride, const double* normal, const double* transverse,
             double steering, Fluxes& flux) const;
  void sources(Index row, const ShallowWaterDrive& drive, double scale, ShallowWaterCell* rates) const;

  ShallowWaterPhysics physics_;
  ShallowWaterTile tile_;
  std::vector<double> h_, u_, v_, q_, w_; ///< with ghosts; q and w per thickness
  Fluxes x_, south_, north_;
};

} // namespace pluvia
