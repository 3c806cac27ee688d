#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pluvia/core/device.hpp"
#include "pluvia/core/settings.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

/// Does the work of steps: asked for anew in the first ones, then recorded once and replayed, for as long as
/// a key stays the same. Local.
class StepRecorder {
public:
  static constexpr int warm_up = 2; ///< steps after which nothing is allocated or planned for the first time

  enum class Way { asked, recorded, replayed };
  /// `key`: all that the work depends on and does not read from the accelerator's memory.
  Way run(const std::vector<const void*>& key, const std::function<void()>& work);

private:
  std::vector<const void*> key_;
  int steps_ = 0; ///< with this key
  std::optional<accelerator::Recording> recording_;
};

/// Why a training step of the ranks of `world` cannot be recorded on accelerators; empty: it can.
/// `gradients_linked`: gradients are summed from accelerator to accelerator, or not at all.
std::string recording_obstacle(const Settings& settings, const Decomposition& tiles,
                               const Communicator& world, bool gradients_linked);

} // namespace pluvia
