#include "measured.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"

namespace pluvia {

void Curve::add(double amount, Seconds s) {
  const auto [point, fresh] = points_.try_emplace(amount, s);
  point->second.forward = std::min(point->second.forward, s.forward);
  point->second.backward = std::min(point->second.backward, s.backward);
}

Seconds Curve::at(double amount) const {
  const auto above = points_.lower_bound(amount);
  const auto high = above == points_.end() ? std::prev(above) : above;
  const auto low = above == points_.begin() ? high : std::prev(above);
  const double span = std::log(high->first / low->first),
               share = span > 0 ? std::clamp(std::log(amount / low->first) / span, 0.0, 1.0) : 1.0;
  const double a = amount / low->first, b = amount / high->first;
  return {std::lerp(a * low->second.forward, b * high->second.forward, share),
          std::lerp(a * low->second.backward, b * high->second.backward, share)};
}

/// Arithmetic where there is any, which knows of windows that the domain's edge cuts off.
double Measured::amount(const Task& task) {
  return task.flop > 0 ? task.flop : static_cast<double>(task.cells * task.frames);
}

Measured::Key Measured::key_of(const Task& task) {
  const bool convolves = task.name == "conv3d" || task.name == "linear";
  const double each = 2.0 * static_cast<double>(task.cells * task.frames * task.c_in * task.c_out);
  return {std::string(task.name), convolves ? static_cast<int>(std::lround(task.flop / each)) : 0, task.c_in,
          task.c_out};
}

Measured::Measured(const std::string& files) {
  std::istringstream names(files);
  for (std::string name; std::getline(names, name, ',');) {
    std::ifstream file(name);
    if (!file) fail(ExitCode::usage, name + " cannot be read", "there is no such file", "Check its name.");
    const auto bench = nlohmann::json::parse(file);
    if (bench["ranks"] != 1)
      fail(ExitCode::usage, name + " was measured on several ranks", "their operators hold waiting",
           "Run pluvia bench on one.");
    for (const auto& row : bench["operators"]) {
      const auto calls = row["calls"].get<double>();
      const std::vector<Index> s = row["output_t_y_x_c"];
      const std::string& of = row["operator"].get_ref<const std::string&>();
      const Task task{of, row["c_in"], s[3], s[0], row["flop"].get<double>() / calls, s[1] * s[2]};
      const Seconds took{row["forward_s"].get<double>() / calls, row["backward_s"].get<double>() / calls};
      Row& to = rows_[key_of(task)];
      to.all.add(amount(task), took);
      to.frames[task.frames].add(amount(task), took);
      if (task.flop > 0) to.weight_share = calls * task.flop / row["backward_flop"].get<double>();
    }
    loss_.add(bench["grid_ny_nx"][0].get<double>() * bench["grid_ny_nx"][1].get<double>(),
              {bench["phases_s"]["loss"], 0});
    optimiser_.add(1, {bench["phases_s"]["optimiser"], 0});
    bytes_per_second_ =
        std::max<double>(bytes_per_second_, bench["timings"]["memory, a = b + s c"]["bytes_per_s"]);
  }
}

const std::pair<const Measured::Key, Measured::Row>& Measured::nearest(const Task& task) const {
  const auto [name, taps, c_in, c_out] = key_of(task);
  const std::pair<const Key, Row>* best = nullptr;
  double least = std::numeric_limits<double>::infinity();
  const auto apart = [](Index a, Index b) {
    return std::abs(std::log(static_cast<double>(a) / static_cast<double>(b)));
  };
  for (const auto& row : rows_) {
    if (std::get<0>(row.first) != name || std::get<1>(row.first) != taps) continue;
    const double far = apart(std::get<2>(row.first), c_in) + apart(std::get<3>(row.first), c_out);
    if (far < least) least = far, best = &row;
  }
  if (!best)
    fail(ExitCode::usage,
         fmt::format("No {} of {} to {} channels was timed", task.name, task.c_in, task.c_out),
         "the measurements are of another network", "Run pluvia bench with the same configuration.");
  return *best;
}

Seconds Measured::of(const Task& task) const {
  const auto& [key, row] = nearest(task);
  const auto c_in = static_cast<double>(std::get<2>(key)), c_out = static_cast<double>(std::get<3>(key));
  // Of as many cells with the channels that were measured.
  const double in = static_cast<double>(task.c_in) / c_in, out = static_cast<double>(task.c_out) / c_out,
               scale = std::get<1>(key) > 0 ? in * out : out;
  const double wanted = task.flop > 0 ? task.flop / scale : amount(task);
  const auto found = row.frames.find(task.frames);
  const Seconds all = (found == row.frames.end() ? row.all : found->second).at(wanted);
  return {all.forward * scale, all.backward * scale};
}

double Measured::weight_share(const Task& task) const {
  return nearest(task).second.weight_share;
}

} // namespace pluvia
