#include "pluvia/physics/shallow_water.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <string>

#include <petscdmda.h>
#include <petscts.h>

#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/physics/random_waves.hpp"

namespace pluvia {

namespace {

constexpr double degree = std::numbers::pi / 180, km_per_degree = 111.2;
constexpr int cell_values = sizeof(ShallowWaterCell) / sizeof(double);
static_assert(std::is_same_v<PetscScalar, double>, "the simulation needs a PETSc of real double precision");

// Runge-Kutta stages; the step is stages - 1 forward Euler steps long.
constexpr int stages = 4;
// Of a Euler step over cell / (fastest wave), sum of both directions: positive and stable with room to spare.
constexpr double courant = 0.35;
constexpr double fastest_wind = 30;        // [m s-1]
constexpr double longest_euler_step = 300; // [s], so that condensation and rain are resolved

void petsc_check(PetscErrorCode code, const char* call) {
  if (code == 0) return;
  const char* text = nullptr;
  PetscErrorMessage(code, &text, nullptr);
  fail(ExitCode::failed, std::string(call) + " failed", text ? text : "unknown PETSc error");
}

/// Owns a PETSc object.
template <class T, PetscErrorCode (*destroy)(T*)> class Owned {
public:
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (object_) destroy(&object_);
  }
  T get() const { return object_; }
  T* put() { return &object_; }

private:
  T object_ = nullptr;
};

} // namespace

PetscSession::PetscSession(const Communicator& world) {
  PETSC_COMM_WORLD = world.raw();
  petsc_check(PetscOptionsSetValue(nullptr, "-no_signal_handler", "true"), "PetscOptionsSetValue");
  petsc_check(PetscInitializeNoArguments(), "PetscInitializeNoArguments");
  // Errors come back as codes and become exceptions; PETSc itself prints nothing and aborts nothing.
  petsc_check(PetscPushErrorHandler(PetscIgnoreErrorHandler, nullptr), "PetscPushErrorHandler");
  // PETSc adds vectors by BLAS, whose threads would compete with the other ranks of the node for a few sums.
  if (void* set_threads = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))
    reinterpret_cast<void (*)(int)>(set_threads)(1);
}

PetscSession::~PetscSession() {
  PetscPopErrorHandler();
  PetscFinalize();
}

double sun_height(double seconds, double longitude) {
  const double day = seconds / 86400;
  return std::max(0.0, -std::cos(2 * std::numbers::pi * (day - std::floor(day) + longitude / 360)));
}

std::vector<double> row_latitudes(const ShallowWaterSetup& setup) {
  std::vector<double> out;
  for (Index y = 0; y < setup.ny; ++y)
    out.push_back(setup.centre_latitude + (static_cast<double>(y) - 0.5 * static_cast<double>(setup.ny - 1)) *
                                              setup.cell_km / km_per_degree);
  return out;
}

std::vector<double> column_longitudes(const ShallowWaterSetup& setup) {
  std::vector<double> out;
  for (Index x = 0; x < setup.nx; ++x)
    out.push_back(setup.centre_longitude +
                  (static_cast<double>(x) - 0.5 * static_cast<double>(setup.nx - 1)) * setup.cell_km /
                      km_per_degree);
  return out;
}

namespace {

ShallowWaterTile make_tile(const ShallowWaterSetup& setup, const Rect& rect) {
  ShallowWaterTile tile;
  tile.height = rect.height(), tile.width = rect.width();
  tile.cell_m = setup.cell_km * 1000;
  const std::vector<double> latitudes = row_latitudes(setup);
  const double omega = 7.292e-5, radius_m = km_per_degree * 1000 / degree;
  const double centre = setup.centre_latitude * degree;
  const double f0 = 2 * omega * std::sin(centre), beta = 2 * omega * std::cos(centre) / radius_m;
  for (Index y = rect.y0; y < rect.y1; ++y) {
    const double latitude = latitudes[static_cast<std::size_t>(y)] * degree;
    tile.coriolis.push_back(f0 + beta * (latitude - centre) * radius_m);
    // Trade winds at the equator, calm near 20 degrees, westerlies as strong beyond 40.
    const double turn = std::clamp(4.5 * latitude, -std::numbers::pi, std::numbers::pi);
    tile.steering.push_back(-setup.physics.steering * std::cos(turn));
    tile.steering_shear.push_back(
        std::abs(turn) < std::numbers::pi ? setup.physics.steering * 4.5 / radius_m * std::sin(turn) : 0.0);
    const double moist = std::cos(std::clamp(1.2 * (latitude - 8 * degree), -1.2, 1.2));
    tile.saturation.push_back(setup.physics.saturation * moist * moist);
  }
  const RandomWaves continents(setup.ny, setup.nx, setup.cell_km, setup.seed, RandomPurpose::initial_state,
                               {.waves = 24, .shortest_km = 600, .longest_km = 3000});
  tile.land = continents.field(rect);
  for (double& land : tile.land) land = land > 0.4 ? 1 : 0;
  return tile;
}

} // namespace

struct ShallowWater::Impl {
  ShallowWaterSetup setup;
  Communicator world;
  Rect rect;
  int steps = 1;          // a frame
  double euler_seconds{}; // a Euler step
  double speed_bound{};
  std::int64_t frame = 0;
  std::vector<double> longitudes, sun;
  RandomWaves waves;
  std::int64_t hour = -1;
  std::vector<double> before, after;
  std::unique_ptr<Tendencies> tendencies;
  std::vector<ShallowWaterCell> cells;
  Owned<DM, DMDestroy> grid;
  Owned<Vec, VecDestroy> state;
  Owned<TS, TSDestroy> stepper;

  Impl(const Communicator& comm, const ShallowWaterSetup& wanted);
  void make_grid();
  void make_initial_state();
  void make_stepper();
  double seconds(double euler_steps) const { return euler_steps * euler_seconds; }
  void drive_until(double seconds_since_start);
  void rates(double euler_steps, Vec in, Vec out);
  void check() const;
  void load();
  void store() const;
  static PetscErrorCode rates_callback(TS, PetscReal t, Vec in, Vec out, void* self);
};

ShallowWater::Impl::Impl(const Communicator& comm, const ShallowWaterSetup& wanted)
    : setup(wanted), world(comm.raw()), longitudes(column_longitudes(wanted)),
      waves(wanted.ny, wanted.nx, wanted.cell_km, wanted.seed, RandomPurpose::forcing, {}) {
  const std::vector<double> latitudes = row_latitudes(setup);
  if (latitudes.front() < -80 || latitudes.back() > 80)
    fail(ExitCode::usage, "The simulated channel reaches beyond 80 degrees of latitude",
         std::to_string(setup.ny) + " rows of " + std::to_string(setup.cell_km) + " km",
         "Lower simulate.ny or simulate.cell_km.");
  const double wave_speed = std::sqrt(setup.physics.gravity * 1.6 * setup.physics.depth);
  speed_bound = wave_speed + fastest_wind;
  const double longest = std::min(courant * setup.cell_km * 1000 / speed_bound, longest_euler_step);
  const double frame_seconds = static_cast<double>(setup.frame_seconds);
  steps = static_cast<int>(std::ceil(frame_seconds / (longest * (stages - 1))));
  euler_seconds = frame_seconds / steps / (stages - 1);
  make_grid();
  make_initial_state();
  make_stepper();
}

void ShallowWater::Impl::make_grid() {
  const GridShape shape = choose_grid_shape(setup.ny, setup.nx, 1, world.size());
  const Tiling tiling(setup.ny, setup.nx, 1, shape.rows, shape.cols);
  std::vector<PetscInt> heights, widths;
  for (int row = 0; row < shape.rows; ++row)
    heights.push_back(static_cast<PetscInt>(tiling.tile(row * shape.cols, 0).height()));
  for (int col = 0; col < shape.cols; ++col)
    widths.push_back(static_cast<PetscInt>(tiling.tile(col, 0).width()));
  if (*std::min_element(heights.begin(), heights.end()) < ShallowWaterTile::ghosts ||
      *std::min_element(widths.begin(), widths.end()) < ShallowWaterTile::ghosts)
    fail(ExitCode::usage, std::to_string(world.size()) + " ranks are too many for the simulated grid",
         "each needs at least 2 x 2 of the " + std::to_string(setup.ny) + " x " + std::to_string(setup.nx) +
             " cells",
         "Use fewer ranks or a larger grid.");
  rect = tiling.tile(world.rank(), 0);
  petsc_check(DMDACreate2d(world.raw(), DM_BOUNDARY_PERIODIC, DM_BOUNDARY_GHOSTED, DMDA_STENCIL_STAR,
                           static_cast<PetscInt>(setup.nx), static_cast<PetscInt>(setup.ny), shape.cols,
                           shape.rows, cell_values, ShallowWaterTile::ghosts, widths.data(), heights.data(),
                           grid.put()),
              "DMDACreate2d");
  petsc_check(DMSetUp(grid.get()), "DMSetUp");
  petsc_check(DMCreateGlobalVector(grid.get(), state.put()), "DMCreateGlobalVector");
  tendencies = std::make_unique<Tendencies>(setup.physics, make_tile(setup, rect));
  sun.resize(static_cast<std::size_t>(rect.width()));
}

void ShallowWater::Impl::make_initial_state() {
  cells.resize(static_cast<std::size_t>(rect.cells()));
  auto cell = cells.begin();
  for (Index y = rect.y0; y < rect.y1; ++y)
    for (Index x = rect.x0; x < rect.x1; ++x, ++cell) {
      const double noise =
          random_normal(setup.seed, RandomPurpose::initial_state,
                        (std::uint64_t{1} << 32) + static_cast<std::uint64_t>(y * setup.nx + x));
      const double saturation = tendencies->tile().saturation[static_cast<std::size_t>(y - rect.y0)];
      *cell = {.thickness = setup.physics.depth,
               .momentum_x = 0,
               .momentum_y = 0,
               .vapour = saturation * std::clamp(0.9 + 0.02 * noise, 0.8, 1.0),
               .cloud = 0,
               .rain = 0,
               .evaporation = 0};
    }
  store();
}

void ShallowWater::Impl::make_stepper() {
  petsc_check(TSCreate(world.raw(), stepper.put()), "TSCreate");
  TS ts = stepper.get();
  petsc_check(TSSetProblemType(ts, TS_NONLINEAR), "TSSetProblemType");
  petsc_check(TSSetDM(ts, grid.get()), "TSSetDM");
  petsc_check(TSSetRHSFunction(ts, nullptr, rates_callback, this), "TSSetRHSFunction");
  petsc_check(TSSetType(ts, TSSSP), "TSSetType");
  petsc_check(TSSSPSetType(ts, TSSSPRKS2), "TSSSPSetType");
  petsc_check(TSSSPSetNumStages(ts, stages), "TSSSPSetNumStages");
  TSAdapt adapt = nullptr;
  petsc_check(TSGetAdapt(ts, &adapt), "TSGetAdapt");
  petsc_check(TSAdaptSetType(adapt, TSADAPTNONE), "TSAdaptSetType");
  // Time counts Euler steps. The stages then add rates with the factor 1 exactly, so that a fused
  // multiply-add in one part of a BLAS loop and none in another cannot make bits depend on the tile's size.
  petsc_check(TSSetTime(ts, 0), "TSSetTime");
  petsc_check(TSSetTimeStep(ts, stages - 1), "TSSetTimeStep");
  petsc_check(TSSetMaxSteps(ts, std::numeric_limits<PetscInt>::max() - 1), "TSSetMaxSteps");
  petsc_check(TSSetExactFinalTime(ts, TS_EXACTFINALTIME_STEPOVER), "TSSetExactFinalTime");
  petsc_check(TSSetSolution(ts, state.get()), "TSSetSolution");
}

PetscErrorCode ShallowWater::Impl::rates_callback(TS, PetscReal t, Vec in, Vec out, void* self) {
  // An exception must not pass through C.
  try {
    static_cast<Impl*>(self)->rates(t, in, out);
    return 0;
  } catch (...) {
    return PETSC_ERR_LIB;
  }
}

void ShallowWater::Impl::drive_until(double seconds_since_start) {
  const auto wanted = static_cast<std::int64_t>(std::floor(seconds_since_start / 3600));
  while (hour < wanted) {
    if (hour < 0) {
      after = waves.field(rect);
    }
    before.swap(after);
    waves.next_hour();
    after = waves.field(rect);
    ++hour;
  }
}

void ShallowWater::Impl::rates(double euler_steps, Vec in, Vec out) {
  const double elapsed = seconds(euler_steps);
  // The last stage stands at the end of the step: it belongs to the hour that ends there.
  drive_until(std::max(0.0, elapsed - 0.5 * euler_seconds));
  const double now = static_cast<double>(setup.start) + elapsed;
  for (Index x = rect.x0; x < rect.x1; ++x)
    sun[static_cast<std::size_t>(x - rect.x0)] = sun_height(now, longitudes[static_cast<std::size_t>(x)]);

  Vec local = nullptr;
  petsc_check(DMGetLocalVector(grid.get(), &local), "DMGetLocalVector");
  petsc_check(DMGlobalToLocal(grid.get(), in, INSERT_VALUES, local), "DMGlobalToLocal");
  double *values = nullptr, *result = nullptr;
  petsc_check(VecGetArray(local, &values), "VecGetArray");
  auto* state_cells = reinterpret_cast<ShallowWaterCell*>(values);
  // Walls: the mirror image, with the velocity across turned round.
  const Index g = ShallowWaterTile::ghosts, pitch = rect.width() + 2 * g;
  const auto mirror = [&](Index from, Index to) {
    for (Index x = 0; x < pitch; ++x) {
      ShallowWaterCell& ghost = state_cells[to * pitch + x];
      ghost = state_cells[from * pitch + x];
      ghost.momentum_y = -ghost.momentum_y;
    }
  };
  for (Index k = 0; k < g; ++k) {
    if (rect.y0 == 0) mirror(g + k, g - 1 - k);
    if (rect.y1 == setup.ny) mirror(g + rect.height() - 1 - k, g + rect.height() + k);
  }
  petsc_check(VecGetArray(out, &result), "VecGetArray");
  const ShallowWaterDrive drive{
      .sun = sun, .before = before, .after = after, .weight = elapsed / 3600 - static_cast<double>(hour)};
  tendencies->compute(state_cells, drive, euler_seconds, reinterpret_cast<ShallowWaterCell*>(result));
  petsc_check(VecRestoreArray(out, &result), "VecRestoreArray");
  petsc_check(VecRestoreArray(local, &values), "VecRestoreArray");
  petsc_check(DMRestoreLocalVector(grid.get(), &local), "DMRestoreLocalVector");
}

void ShallowWater::Impl::load() {
  const double* values = nullptr;
  petsc_check(VecGetArrayRead(state.get(), &values), "VecGetArrayRead");
  std::copy_n(reinterpret_cast<const ShallowWaterCell*>(values), cells.size(), cells.begin());
  petsc_check(VecRestoreArrayRead(state.get(), &values), "VecRestoreArrayRead");
}

// The integrals begin anew with every frame.
void ShallowWater::Impl::store() const {
  double* values = nullptr;
  petsc_check(VecGetArray(state.get(), &values), "VecGetArray");
  auto* out = reinterpret_cast<ShallowWaterCell*>(values);
  for (std::size_t i = 0; i < cells.size(); ++i) {
    out[i] = cells[i];
    out[i].rain = out[i].evaporation = 0;
  }
  petsc_check(VecRestoreArray(state.get(), &values), "VecRestoreArray");
}

void ShallowWater::Impl::check() const {
  const ShallowWaterPhysics& p = setup.physics;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const ShallowWaterCell& c = cells[i];
    const double steering = std::abs(tendencies->tile().steering[i / static_cast<std::size_t>(rect.width())]);
    const double wind =
        std::max(std::abs(c.momentum_x / c.thickness) + steering, std::abs(c.momentum_y / c.thickness));
    // Negated, so that NaN fails as well.
    if (!(c.thickness > 0 && wind + std::sqrt(p.gravity * c.thickness) <= speed_bound))
      fail(ExitCode::failed, "The simulated flow became too fast for its step",
           "thickness " + std::to_string(c.thickness) + " m, wind " + std::to_string(wind) + " m s-1 after " +
               std::to_string(frame) + " frames");
    if (!(c.vapour >= 0 && c.cloud >= 0 && c.rain >= 0))
      fail(ExitCode::failed, "A simulated water column became negative",
           "vapour " + std::to_string(c.vapour) + " mm, cloud " + std::to_string(c.cloud) + " mm");
  }
}

ShallowWater::ShallowWater(const PetscSession&, const Communicator& world, const ShallowWaterSetup& setup)
    : impl_(std::make_unique<Impl>(world, setup)) {}
ShallowWater::~ShallowWater() = default;
ShallowWater::ShallowWater(ShallowWater&&) noexcept = default;
ShallowWater& ShallowWater::operator=(ShallowWater&&) noexcept = default;

const ShallowWaterSetup& ShallowWater::setup() const {
  return impl_->setup;
}
const Rect& ShallowWater::tile() const {
  return impl_->rect;
}
Time ShallowWater::time() const {
  return impl_->setup.start + impl_->frame * impl_->setup.frame_seconds;
}
int ShallowWater::steps_per_frame() const {
  return impl_->steps;
}
double ShallowWater::step_seconds() const {
  return impl_->euler_seconds * (stages - 1);
}
const std::vector<ShallowWaterCell>& ShallowWater::cells() const {
  return impl_->cells;
}
const ShallowWaterTile& ShallowWater::geometry() const {
  return impl_->tendencies->tile();
}

void ShallowWater::set_cells(const std::vector<ShallowWaterCell>& cells) {
  impl_->cells = cells;
  impl_->store();
}

void ShallowWater::advance() {
  for (int step = 0; step < impl_->steps; ++step) petsc_check(TSStep(impl_->stepper.get()), "TSStep");
  ++impl_->frame;
  impl_->load();
  impl_->store();
  together(impl_->world, [&] { impl_->check(); });
}

} // namespace pluvia
