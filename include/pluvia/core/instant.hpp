#pragma once
#include <chrono>
#include <optional>

#include "pluvia/core/device.hpp"

namespace pluvia {

/// When a device has done all that it was asked for so far: on processors now, on an accelerator by its own
/// clock, without waiting for it. Local.
class Instant {
public:
  explicit Instant(Device device) {
    if (device == Device::gpu) there_.emplace();
  }
  /// Seconds from an earlier one of the same device, which are waited for.
  double since(const Instant& earlier) const {
    return there_ ? there_->since(*earlier.there_)
                  : std::chrono::duration<double>(here_ - earlier.here_).count();
  }

private:
  std::chrono::steady_clock::time_point here_ = std::chrono::steady_clock::now();
  std::optional<accelerator::Stamp> there_;
};

} // namespace pluvia
