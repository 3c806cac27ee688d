#pragma once
#include <cstddef>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "pluvia/core/instant.hpp"
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
/// theirs. An accelerator is not waited for: its own clock tells, when the rows are read. Operators of one
/// name and shape share a row. Local.
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
  /// Of a network on that device.
  explicit Profile(Device device = Device::host) : device_(device), last_(device) {}
  /// From here on time is somebody's.
  void start();
  /// The row that the pull-back is to be booked on.
  std::size_t forward(const Work& work, const Shape& output);
  void pull(std::size_t row);
  /// In the order of the forward pass. Waits for what the accelerator has not done yet.
  const std::vector<Row>& rows();

private:
  struct Lap {
    std::size_t row;
    double Row::*seconds;
    Instant begin, end;
  };
  void lap(std::size_t row, double Row::*seconds);
  Device device_;
  Instant last_;
  std::vector<Lap> laps_; ///< that rows() has not booked yet
  std::vector<Row> rows_;
  std::map<std::tuple<std::string_view, Index, Index, Index, Index, Index, Index>, std::size_t> index_;
};

} // namespace pluvia
