#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "pluvia/model/checkpoint.hpp"

namespace pluvia {

/// The shape that other programs expect of an array stored as [B, T, Y, X, C]: convolution weights keep
/// [t, y, x, C_in, C_out]; of all others the extents of one are dropped, so that weights of linear layers are
/// [C_in, C_out] and biases [C]. Arrays of other ranks keep their shape. Local.
std::vector<std::int64_t> natural_shape(const std::vector<std::int64_t>& stored);

/// Writes the arrays "weights/NAME" of a checkpoint as NAME in one safetensors file, with its configuration
/// (YAML), its digest and the program's version as metadata. Local. Throws a data Error when there are none
/// and a failed Error when the file cannot be written.
void write_weights(const std::string& path, const Checkpoint& checkpoint, const std::string& digest);

} // namespace pluvia
