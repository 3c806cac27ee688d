#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "pluvia/ad/profile.hpp"

namespace pluvia {

struct Parameter;

/// Who is told while gradients are pulled back, time and again, and of each parameter once, when its gradient
/// is whole.
using GradientListener = std::function<void(std::span<Parameter* const> whole)>;

/// What a backward pass leaves for later: the parts of its pull-backs that add to gradients of parameters and
/// to nothing else, so that nobody waits for them. They hold what they need. Local.
class DeferredGradients {
public:
  /// `profile`, where given, books the time of the part on `row`.
  void add(std::function<void()> part, Profile* profile, std::size_t row) {
    parts_.push_back({std::move(part), profile, row, {}});
  }
  /// The gradients of these are whole when all that was added before has run.
  void add_whole(std::vector<Parameter*> whole) {
    if (!whole.empty()) parts_.push_back({{}, nullptr, 0, std::move(whole)});
  }
  /// Runs everything in the order in which it was added, and lets go of it.
  void run(const GradientListener& listener = {});

private:
  struct Part {
    std::function<void()> run;
    Profile* profile;
    std::size_t row;
    std::vector<Parameter*> whole;
  };
  std::vector<Part> parts_;
};

} // namespace pluvia
