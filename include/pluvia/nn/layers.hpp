#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pluvia/ad/tape.hpp"
#include "pluvia/ops/conv3d.hpp"

namespace pluvia {

/// All parameters of a network in the order they were made, with stable addresses.
class ParameterSet {
public:
  explicit ParameterSet(std::uint64_t seed) : seed_(seed) {}
  /// Normal numbers of a standard deviation, the same for the same seed, name and element everywhere.
  Parameter& add_weight(const std::string& name, const Shape& shape, double deviation);
  /// Constants: biases, gains; never decayed.
  Parameter& add_constant(const std::string& name, Index size, float value);

  /// An array that is not trained and lies where the parameters do.
  const Tensor& keep(Tensor constant);

  std::vector<Parameter*> all() const;
  std::int64_t size() const;
  /// Where they are; all in one place.
  Device device() const;
  void move_to(Device device);
  void zero_gradients();
  /// From now on gradients are collected in order-free sums: for tapes with blocks.
  void sum_in_blocks();

private:
  std::uint64_t seed_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::vector<std::unique_ptr<Tensor>> constants_;
};

enum class Init {
  xavier,  ///< variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010)
  kaiming, ///< variance 2 / fan_in, for what feeds a GELU (He et al. 2015)
  zero
};

struct LinearLayer {
  Parameter *weight = nullptr, *bias = nullptr;
};
LinearLayer make_linear(ParameterSet& set, const std::string& name, Index c_in, Index c_out, Init init);

struct NormLayer {
  Parameter *gain = nullptr, *bias = nullptr;
};
NormLayer make_norm(ParameterSet& set, const std::string& name, Index channels);

struct ConvLayer {
  Stencil stencil = {};
  Parameter *weight = nullptr, *bias = nullptr;
};
ConvLayer make_conv(ParameterSet& set, const std::string& name, const Stencil& stencil, Index c_in,
                    Index c_out, Init init);

} // namespace pluvia
