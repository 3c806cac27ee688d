#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "pluvia/core/upload.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/ops/pointwise.hpp"

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
  /// In the accelerator's memory; a step begins with clear().
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

} // namespace pluvia
