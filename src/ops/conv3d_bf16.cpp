#include "conv3d_bf16.hpp"

#include <bit>
#include <cassert>

#include "conv3d_rows.hpp"
#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

namespace {

/// To the nearest, ties to even; for weights, which are finite.
std::uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

template <class Source> PackedBf16 pack_with(const Stencil& stencil, int c_in, int c_out, Source&& source) {
  constexpr int tile_size = PackedBf16::tile_size, step_values = PackedBf16::step_values;
  PackedBf16 p{stencil, c_in, c_out, 0, (c_out + tile_size - 1) / tile_size, {}};
  const int values = stencil.x * c_in;
  p.steps = (values + step_values - 1) / step_values;
  p.data.assign(static_cast<std::size_t>(p.tiles * p.tile_stride()), 0);
  parallel_for(p.tiles * p.rows(), [&](Index task) {
    const int first = static_cast<int>(task / p.rows()) * tile_size, row = static_cast<int>(task % p.rows());
    const int channels = std::min(tile_size, c_out - first);
    std::uint16_t* out = p.data.data() + task * p.steps * PackedBf16::step_block;
    for (int value = 0; value < values; ++value)
      for (int j = 0; j < channels; ++j)
        out[(value / 2 * tile_size + j) * 2 + value % 2] =
            round_to_bf16(source(row * stencil.x + value / c_in, value % c_in, first + j));
  });
  return p;
}

/// Calls pack(stencil, C_in, C_out, source) where source(tap, input, output) is a weight of [t, y, x, C_in,
/// C_out].
template <class Pack> auto pack_from(const Tensor& weight, const Stencil& stencil, Pack&& pack) {
  const auto c_in = static_cast<int>(weight.shape().x), c_out = static_cast<int>(weight.shape().c);
  const float* w = weight.cell(0, 0, 0, 0);
  return pack(stencil, c_in, c_out,
              [=](int tap, int ci, int co) { return w[(Index{tap} * c_in + ci) * c_out + co]; });
}
/// The same for the gradient of the input: taps mirrored, channels exchanged.
template <class Pack> auto pack_transposed_from(const Tensor& weight, const Stencil& stencil, Pack&& pack) {
  const auto c_in = static_cast<int>(weight.shape().x), c_out = static_cast<int>(weight.shape().c);
  const float* w = weight.cell(0, 0, 0, 0);
  const int last = stencil.taps() - 1;
  return pack(transposed(stencil), c_out, c_in,
              [=](int tap, int from, int to) { return w[(Index{last - tap} * c_in + to) * c_out + from]; });
}

const Bf16Operators* operators() {
  switch (bf16_unit()) {
  case Bf16Unit::amx:
    return amx_operators();
  case Bf16Unit::avx512:
    return avx512_bf16_operators();
  case Bf16Unit::none:
    break;
  }
  return nullptr;
}

} // namespace

Bf16Unit bf16_unit() {
  static const Bf16Unit unit = amx_operators()           ? Bf16Unit::amx
                               : avx512_bf16_operators() ? Bf16Unit::avx512
                                                         : Bf16Unit::none;
  return unit;
}

PackedBf16 pack_bf16(const Tensor& weight, const Stencil& stencil) {
  return pack_from(weight, stencil, [](auto&&... of) { return pack_with(of...); });
}

PackedBf16 pack_transposed_bf16(const Tensor& weight, const Stencil& stencil) {
  return pack_transposed_from(weight, stencil, [](auto&&... of) { return pack_with(of...); });
}

void convolve_bf16(const Tensor& x, const PackedBf16& w, const float* bias, const Tensor* residual, Tensor& y,
                   std::span<const OutputPart> parts) {
  assert(has_native_bf16() && x.shape().c == w.c_in && y.shape().c == w.c_out);
  operators()->convolve(x, w, bias, residual, y, parts);
}

void convolve_weight_gradient_bf16(const Tensor& x, const Tensor& dy, const Stencil& stencil, Tensor& dw,
                                   float* db) {
  assert(has_native_bf16());
  operators()->weight_gradient(x, dy, stencil, dw, db);
}

} // namespace pluvia
