#pragma once
#include <chrono>
#include <cstddef>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// What an operator does, for those who measure it. Arithmetic counts 2 for a multiply-add; operators that
/// are bound by memory count none.
struct Work {
  std::string_view name;
  Index inputs = 0;     ///< channels of its input
  double flop = 0;      ///< of the forward
  double pull_flop = 0; ///< of the pull-back
};

/// Where the time of a network goes, operator by operator: a tape with a profile tells it of each value when
/// it is ready and of each gradient when it is pulled back, and what passed since the last such moment is
/// theirs. Operators of one name and shape share a row. Local.
class Profile {
public:
  struct Row {
    std::string_view name;
    Index inputs = 0;
    Shape output;
    int calls = 0;
    double forward_seconds = 0, pull_seconds = 0;
    double flop = 0, pull_flop = 0;
  };
  /// From here on time is somebody's.
  void start() { last_ = Clock::now(); }
  /// The row that the pull-back is to be booked on.
  std::size_t forward(const Work& work, const Shape& output);
  void pull(std::size_t row) { rows_[row].pull_seconds += lap(); }
  const std::vector<Row>& rows() const { return rows_; }

private:
  using Clock = std::chrono::steady_clock;
  double lap();
  Clock::time_point last_ = Clock::now();
  std::vector<Row> rows_; ///< in the order of the forward pass
  std::map<std::tuple<std::string_view, Index, Index, Index, Index, Index, Index>, std::size_t> index_;
};

} // namespace pluvia
