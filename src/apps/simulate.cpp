#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "commands.hpp"
#include "pluvia/io/cf_grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/physics/satellite.hpp"
#include "pluvia/physics/shallow_water.hpp"

namespace pluvia::commands {

namespace {

constexpr Time spin_up = 4 * 86400; ///< until rain and evaporation are in balance [s]

ShallowWaterSetup make_setup(const SimulateSettings& s) {
  const auto frame_seconds = static_cast<Time>(std::llround(s.frame_minutes * 60));
  const Time spin_up_frames = (spin_up + frame_seconds - 1) / frame_seconds;
  return {.ny = s.ny,
          .nx = s.nx,
          .cell_km = s.cell_km,
          .seed = static_cast<std::uint64_t>(s.seed),
          .start = parse_time(s.from) - spin_up_frames * frame_seconds,
          .frame_seconds = frame_seconds,
          .physics = {}};
}

/// Every variable of the archive, with what the CF conventions ask for. Collective.
void define_archive(NcWriter& file, const SimulateSettings& s, const ShallowWaterSetup& setup) {
  file.set_text("", "Conventions", "CF-1.11, ACDD-1.3");
  file.set_text("", "title", "Simulated satellite images and rain");
  file.set_text(
      "", "summary",
      "Moist-convective rotating shallow water on a beta plane, seen by two infra-red channels. Not "
      "observations.");
  file.set_text("", "source", fmt::format("pluvia simulate {}", PLUVIA_VERSION));
  file.set_text("", "references",
                "Bouchut et al. 2009, Phys. Fluids 21, 116604; Rostami and Zeitlin 2018, "
                "Q. J. R. Meteorol. Soc. 144, doi 10.1002/qj.3292");
  file.set_numbers("", "seed", NcType::f64, {static_cast<double>(s.seed)});
  file.set_numbers("", "noise_kelvin", NcType::f64, {s.noise_kelvin});

  Grid grid;
  grid.y = row_latitudes(setup), grid.x = column_longitudes(setup);
  write_grid(file, grid);
  write_time_axis(file, NcWriter::unlimited, "end of the interval of rain, moment of the images");
  file.set_text("time", "bounds", "time_bnds");
  file.add_table("time_bnds", NcType::f64, {"time", "bnds"});

  const auto field = [&](const char* name, const char* standard_name, const char* long_name,
                         const char* units) {
    file.add_field(name, NcType::f32, {"time", "lat", "lon"});
    file.set_text(name, "standard_name", standard_name);
    file.set_text(name, "long_name", long_name);
    file.set_text(name, "units", units);
    set_grid_attributes(file, grid, name);
  };
  field("tb_window", "toa_brightness_temperature", "brightness temperature of the infra-red window", "K");
  field("tb_vapour", "toa_brightness_temperature", "brightness temperature of the water-vapour channel", "K");
  for (const char* name : {"tb_window", "tb_vapour"}) file.set_text(name, "cell_methods", "time: point");
  field("rain", "lwe_precipitation_rate", "mean precipitation rate since the frame before", "mm h-1");
  file.set_text("rain", "cell_methods", "time: mean");
  file.add_field("land_mask", NcType::u8, {"lat", "lon"});
  file.set_text("land_mask", "standard_name", "land_binary_mask");
  file.set_text("land_mask", "units", "1");
  set_grid_attributes(file, grid, "land_mask");
}

struct Water {
  double held = 0, rain = 0, evaporation = 0; ///< [mm], mean over the grid
};

/// For the check alone: sums over ranks depend on their number and feed no field. Collective.
Water mean_water(const Communicator& world, const ShallowWater& model) {
  double sums[3] = {};
  for (const ShallowWaterCell& cell : model.cells())
    sums[0] += cell.vapour + cell.cloud, sums[1] += cell.rain, sums[2] += cell.evaporation;
  world.all_reduce(std::span<double>(sums), Reduce::sum);
  const double cells = static_cast<double>(model.setup().ny * model.setup().nx);
  return {sums[0] / cells, sums[1] / cells, sums[2] / cells};
}

/// Goes on by one frame and checks that water in the air changed by evaporation less rain. Collective.
Water advance(const Communicator& world, ShallowWater& model, const Water& before) {
  model.advance();
  const Water after = mean_water(world, model);
  const double lost = before.held + after.evaporation - after.rain - after.held;
  if (!(std::abs(lost) <= 1e-9 * after.held))
    fail(ExitCode::failed, "The simulation lost water",
         fmt::format("{:.3g} mm in the frame to {}", lost, format_time(model.time())));
  return after;
}

} // namespace

ExitCode simulate(const Communicator& world, const Settings& settings, const Log& log) {
  const SimulateSettings& s = settings.simulate;
  const ShallowWaterSetup setup = make_setup(s);
  const PetscSession petsc(world);
  ShallowWater model(petsc, world, setup);
  NcWriter file(world, s.output);
  define_archive(file, s, setup);

  const std::vector<double>& land = model.geometry().land;
  file.write_tile("land_mask", {}, {}, model.tile(), std::vector<std::uint8_t>(land.begin(), land.end()));

  const Time first = parse_time(s.from);
  const auto frames =
      std::max<std::int64_t>(1, std::llround(s.days * 86400 / static_cast<double>(setup.frame_seconds)));
  const std::int64_t before = (first - setup.start) / setup.frame_seconds - 1;
  log.info(fmt::format("Simulating {} x {} cells of {} km, {} steps of {:.0f} s a frame, {} ranks", s.ny,
                       s.nx, s.cell_km, model.steps_per_frame(), model.step_seconds(), world.size()));
  std::optional<Progress> progress(std::in_place, log, "simulate", before + frames);
  Water water = mean_water(world, model);
  for (std::int64_t i = 0; i < before; ++i) {
    water = advance(world, model, water);
    progress->update(i + 1, "spin-up");
  }

  const Imager imager{.noise_kelvin = s.noise_kelvin, .missing_lines = s.missing_lines, .seed = setup.seed};
  const double per_hour = 3600 / static_cast<double>(setup.frame_seconds);
  std::vector<float> rain(model.cells().size());
  std::size_t written = 0;
  double fallen = 0;
  for (std::int64_t i = 0; i < frames; ++i) {
    water = advance(world, model, water);
    fallen += water.rain;
    const auto number = static_cast<std::uint64_t>(i);
    if (!frame_is_missing(setup.seed, number, s.missing_frames)) {
      const SatelliteImage image = observe(model, imager, number);
      // A thousandth of a millimetre is as fine as a gauge of rain needs, and packs well.
      for (std::size_t c = 0; c < rain.size(); ++c)
        rain[c] = static_cast<float>(std::round(model.cells()[c].rain * per_hour * 1024) / 1024);
      write_time(file, written, model.time());
      const double end = static_cast<double>(model.time());
      file.write_table("time_bnds", {written, 0}, {1, 2},
                       std::vector<double>{end - static_cast<double>(setup.frame_seconds), end});
      file.write_tile("tb_window", {written}, {1}, model.tile(), image.window);
      file.write_tile("tb_vapour", {written}, {1}, model.tile(), image.vapour);
      file.write_tile("rain", {written}, {1}, model.tile(), rain);
      ++written;
    }
    progress->update(before + i + 1, fmt::format("rain {:.2f} mm/h", water.rain * per_hour));
  }
  file.commit();
  progress.reset(); // its last line before ours
  log.info(fmt::format("Wrote {} frames to {}: rain {:.1f} mm a day in the mean, water closed to rounding",
                       written, s.output, fallen / static_cast<double>(frames) * per_hour * 24));
  return ExitCode::done;
}

} // namespace pluvia::commands
