#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace pluvia {

/// An f32 array to be written, row-major; `values` must outlive the call that writes it.
struct NamedValues {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<const float> values;
};

/// Writes arrays in the given order, and texts as metadata, as one file of the safetensors format
/// (github.com/huggingface/safetensors): the length of a JSON header as 8 bytes, the header padded with
/// spaces to a multiple of 8 bytes, the values little-endian without gaps. Temporary name, flush, rename.
/// Local. Throws a failed Error when it cannot, or when an array does not have the size of its shape.
void write_safetensors(const std::string& path, const std::vector<NamedValues>& arrays,
                       const std::map<std::string, std::string>& texts);

} // namespace pluvia
