#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pluvia/core/settings.hpp"
#include "pluvia/core/upload.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/ops/pointwise.hpp"
#include "pluvia/parallel/decomposition.hpp"

namespace pluvia {

/// What a training step on an accelerator takes from the host, always at the same place there, and what it
/// leaves for it; neither waits for the other. Local.
class DeviceStep {
public:
  DeviceStep();
  ~DeviceStep();

  /// The n-th sample of this rank. Tensors may be empty where a stage does without; those of one n are of one
  /// shape in all steps.
  void send(std::size_t n, std::uint64_t sample, const Tensor& input, const Tensor& base,
            const Target& target);
  Var input(std::size_t n) const;
  Var base(std::size_t n) const;
  TargetThere target(std::size_t n) const;
  /// The sample's number, for Dropout::sample_there.
  const std::uint64_t* sample(std::size_t n) const;

  /// What a step finds out.
  struct Report {
    FixedSum loss;
    double norm = 0; ///< of the gradient
  };
  /// In the accelerator's memory, where it begins with zeros.
  void clear();
  FixedSum* loss() { return &there_.data()->loss; }
  double* norm() { return &there_.data()->norm; }
  /// Asks for the report of the steps so far to be copied to the host, where take() waits for the earliest
  /// that was not taken; two at most may be on their way.
  void post();
  Report take();

  /// What recorded steps must find again: where everything lies.
  std::vector<const void*> places() const;

private:
  struct Sample;
  std::vector<std::unique_ptr<Sample>> samples_;
  DeviceArray<Report> there_, zero_;
  struct Copy {
    PinnedArray<Report> report = PinnedArray<Report>(1);
    accelerator::Mark arrived = {};
  };
  Copy copies_[2];
  std::size_t posted_ = 0, taken_ = 0;
};

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
