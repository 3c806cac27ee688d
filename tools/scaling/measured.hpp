#pragma once
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "pluvia/core/tensor.hpp"

namespace pluvia {

struct Seconds {
  double forward = 0, backward = 0;
};

/// Seconds of something at some amounts of work, the least of what was measured: other work on the machine
/// only adds. In between the rate is interpolated over the logarithm of the amount, and beyond it stays.
class Curve {
public:
  void add(double amount, Seconds s);
  Seconds at(double amount) const;

private:
  std::map<double, Seconds> points_;
};

/// What an operator does on a rank, as the table of pluvia bench tells operators apart.
struct Task {
  std::string_view name;
  Index c_in = 0, c_out = 0, frames = 0;
  double flop = 0; ///< forward
  Index cells = 0; ///< of a frame
};

/// How fast one rank of the measured machine is, from files that `pluvia bench` wrote on one rank.
class Measured {
public:
  /// Names with commas between them.
  explicit Measured(const std::string& files);

  /// The backward time is that of all its gradients. Numbers of channels or frames that were not measured
  /// take as long for each multiplication, or value, as the nearest that were.
  Seconds of(const Task& task) const;
  /// Share of the gradient of weights in the backward time of a convolution.
  double weight_share(const Task& task) const;
  double loss(double cells) const { return loss_.at(cells).forward; }
  double optimiser() const { return optimiser_.at(1).forward; }
  double bytes_per_second() const { return bytes_per_second_; }

private:
  using Key =
      std::tuple<std::string, int, Index, Index>; ///< name, taps of a convolution, channels in and out
  struct Row {
    Curve all;                     ///< whatever the frames
    std::map<Index, Curve> frames; ///< of so many
    double weight_share = 0;
  };
  static double amount(const Task& task);
  static Key key_of(const Task& task);
  const std::pair<const Key, Row>& nearest(const Task& task) const;

  std::map<Key, Row> rows_;
  Curve loss_, optimiser_;
  double bytes_per_second_ = 0;
};

} // namespace pluvia
