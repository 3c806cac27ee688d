#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/io/time.hpp"
#include "pluvia/physics/tendencies.hpp"

namespace pluvia {

/// PETSc, initialised on a communicator for the life of this object; PETSc installs no signal handler.
/// Make one; it must outlive every ShallowWater and end before MPI does. Collective.
class PetscSession {
public:
  explicit PetscSession(const Communicator& world);
  ~PetscSession();
  PetscSession(const PetscSession&) = delete;
  PetscSession& operator=(const PetscSession&) = delete;
};

/// What to simulate.
struct ShallowWaterSetup {
  Index ny = 96, nx = 128;
  double cell_km = 20;
  double centre_latitude = 10;  ///< [degrees north]
  double centre_longitude = 80; ///< [degrees east]
  std::uint64_t seed = 1;
  Time start = 0; ///< [s]
  Time frame_seconds = 3600;
  ShallowWaterPhysics physics;
};

/// Moist-convective rotating shallow water on a beta plane, after Bouchut, Lambaerts, Lapeyre and Zeitlin
/// (2009, Phys. Fluids 21, 116604) with the cloud water of Rostami and Zeitlin (2018,
/// Q. J. R. Meteorol. Soc. 144, doi 10.1002/qj.3292), in a channel: periodic in x, free-slip walls in y.
///
///   dh/dt + div(h V) = (h_e(x, y, t) - h) / t_cool - b (C - K) - heating of land
///   d(h v)/dt + div(h V v) + grad(g h^2 / 2) = -f k x (h v) - h v dU/dy i - h v (1 / t_drag + d |v|)
///                                              + v (sources of h)
///   dq/dt + div(q V) = E - C + K
///   dw/dt + div(w V) = C - K - P
///   condensation   C = <max(q - q_s, 0)> / t_c, the mean over a spread of q_s inside the cell
///   cloud drying   K = w (1 - q / q_s)+ / t_k
///   precipitation  P = max(w - w_0, 0) / t_p
///   evaporation    E = (0.25 + |V| / 8 m s-1) (q_s - q)+ / t_e at sea; less on land, and there by day alone
///   b = (1 - gamma) h / max(q, q_s): convection removes the share 1 - gamma of the air whose water
///   condensed. gamma > 0 keeps saturated air stable at the scale of a cell (moist gravity waves of speed
///   sqrt(gamma g h)).
///
/// h [m] is the thickness of the lower layer, v = (u, v) its velocity, V = v + U(y) i with a fixed steering
/// wind U, q and w [mm] are the water columns. Rain and evaporation are integrated beside the state by the
/// same scheme, so that water is closed to rounding. Time: strong-stability-preserving Runge-Kutta of second
/// order in four stages (PETSc TSSSP) with a step fixed by the grid, never by the state.
///
/// Simplified: one layer and one vertical mode; no orography, no radiation but a relaxation; the steering
/// wind does not feel the disturbances; sea temperature is constant; land is known by its share alone.
/// Weather comes from random waves in h_e of 400 to 2500 km, whose amplitudes are red noise with memories of
/// half a day to four days; land from a smooth random field. Weather leaving in the east comes back in the
/// west.
///
/// Data depend on the setup alone, to the bit, not on the ranks: pointwise arithmetic, fixed steps, random
/// numbers by counter.
class ShallowWater {
public:
  /// Throws a usage Error when the channel leaves the globe or a rank would get fewer than 2 x 2 cells.
  /// Collective over `world`.
  ShallowWater(const PetscSession& petsc, const Communicator& world, const ShallowWaterSetup& setup);
  ~ShallowWater();
  ShallowWater(ShallowWater&&) noexcept;
  ShallowWater& operator=(ShallowWater&&) noexcept;

  const ShallowWaterSetup& setup() const;
  /// The cells of this rank.
  const Rect& tile() const;
  /// Time of the state [s].
  Time time() const;
  /// Inner steps of one frame, and their length [s].
  int steps_per_frame() const;
  double step_seconds() const;

  /// Goes on by one frame. Throws a failed Error when the flow outruns the fixed step or a water column turns
  /// negative. Collective.
  void advance();

  /// This rank's cells, row-major, the southernmost row first; rain and evaporation are those of the last
  /// frame.
  const std::vector<ShallowWaterCell>& cells() const;
  /// Replaces this rank's cells (tests, analytic states). Local.
  void set_cells(const std::vector<ShallowWaterCell>& cells);

  /// Share of land of this rank's cells, 0 or 1, and their constant fields.
  const ShallowWaterTile& geometry() const;

private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Cosine of the hour angle of the sun, at least 0: 1 at local noon, 0 from six in the evening to six in the
/// morning; `seconds` since 1970 UTC, longitude [degrees east].
double sun_height(double seconds, double longitude);

/// Latitudes of the rows (south to north) and longitudes of the columns of a setup [degrees].
std::vector<double> row_latitudes(const ShallowWaterSetup& setup);
std::vector<double> column_longitudes(const ShallowWaterSetup& setup);

} // namespace pluvia
