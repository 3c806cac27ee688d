#pragma once

namespace pluvia {

/// What convolutions and linear layers multiply in. Values, gradients and weights are stored in f32, and sums are
/// f32, either way.
enum class Precision { f32, bf16 };

} // namespace pluvia
