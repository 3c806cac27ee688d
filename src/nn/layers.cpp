#include "pluvia/nn/layers.hpp"

#include <cmath>

#include "pluvia/core/random.hpp"

namespace pluvia {

namespace {

/// FNV-1a: a stream of random numbers of its own for every name.
std::uint64_t hash(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h;
}

double deviation(Init init, double fan_in, double fan_out) {
  switch (init) {
  case Init::xavier:
    return std::sqrt(2.0 / (fan_in + fan_out));
  case Init::kaiming:
    return std::sqrt(2.0 / fan_in);
  default:
    return 0.0;
  }
}

} // namespace

Parameter& ParameterSet::add_weight(const std::string& name, const Shape& shape, double deviation) {
  auto p = std::make_unique<Parameter>(
      Parameter{name, Tensor::zeros(shape), Tensor::zeros(shape), Parameter::Decay::yes});
  if (deviation > 0) {
    const auto values = p->value.storage();
    const std::uint64_t stream = hash(name);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(deviation * random_normal(seed_, RandomPurpose::weights, i, stream));
  }
  parameters_.push_back(std::move(p));
  return *parameters_.back();
}

Parameter& ParameterSet::add_constant(const std::string& name, Index size, float value) {
  const Shape shape{1, 1, 1, 1, size};
  auto p =
      std::make_unique<Parameter>(Parameter{name, Tensor(shape), Tensor::zeros(shape), Parameter::Decay::no});
  p->value.fill(value);
  parameters_.push_back(std::move(p));
  return *parameters_.back();
}

const Tensor& ParameterSet::keep(Tensor constant) {
  constants_.push_back(std::make_unique<Tensor>(std::move(constant)));
  return *constants_.back();
}

std::vector<Parameter*> ParameterSet::all() const {
  std::vector<Parameter*> out;
  for (const auto& p : parameters_) out.push_back(p.get());
  return out;
}

std::int64_t ParameterSet::size() const {
  std::int64_t n = 0;
  for (const auto& p : parameters_) n += p->value.shape().size();
  return n;
}

Device ParameterSet::device() const {
  return parameters_.empty() ? Device::host : parameters_.front()->value.device();
}

void ParameterSet::move_to(Device device) {
  for (const auto& p : parameters_) {
    p->value = moved(std::move(p->value), device);
    p->grad = moved(std::move(p->grad), device);
  }
  for (const auto& constant : constants_) *constant = moved(std::move(*constant), device);
}

void ParameterSet::zero_gradients() {
  for (const auto& p : parameters_) {
    p->grad.fill(0.0F);
    p->sums.clear();
  }
}

void ParameterSet::sum_in_blocks() {
  for (const auto& p : parameters_) p->sums = OrderFreeSums(p->grad.storage().size());
}

LinearLayer make_linear(ParameterSet& set, const std::string& name, Index c_in, Index c_out, Init init) {
  Parameter& weight = set.add_weight(name + ".weight", {1, 1, 1, c_in, c_out},
                                     deviation(init, static_cast<double>(c_in), static_cast<double>(c_out)));
  return {&weight, &set.add_constant(name + ".bias", c_out, 0.0F)};
}

NormLayer make_norm(ParameterSet& set, const std::string& name, Index channels) {
  Parameter& gain = set.add_constant(name + ".gain", channels, 1.0F);
  return {&gain, &set.add_constant(name + ".bias", channels, 0.0F)};
}

ConvLayer make_conv(ParameterSet& set, const std::string& name, const Stencil& stencil, Index c_in,
                    Index c_out, Init init) {
  const double taps = stencil.taps();
  Parameter& weight =
      set.add_weight(name + ".weight", {stencil.t, stencil.y, stencil.x, c_in, c_out},
                     deviation(init, taps * static_cast<double>(c_in), taps * static_cast<double>(c_out)));
  return {stencil, &weight, &set.add_constant(name + ".bias", c_out, 0.0F)};
}

} // namespace pluvia
