#include "pluvia/model/weights_file.hpp"

#include <algorithm>
#include <string_view>

#include "pluvia/core/error.hpp"
#include "pluvia/io/safetensors.hpp"

namespace pluvia {

std::vector<std::int64_t> natural_shape(const std::vector<std::int64_t>& stored) {
  const bool convolution = stored.size() == 5 && stored[1] > 1 && stored[2] > 1;
  if (convolution || stored.size() != 5) return stored;
  std::vector<std::int64_t> shape;
  std::ranges::copy_if(stored, std::back_inserter(shape), [](std::int64_t n) { return n != 1; });
  return shape;
}

void write_weights(const std::string& path, const Checkpoint& checkpoint, const std::string& digest) {
  constexpr std::string_view prefix = "weights/";
  std::vector<NamedValues> arrays;
  for (const auto& [name, array] : checkpoint.arrays)
    if (name.starts_with(prefix))
      arrays.push_back({name.substr(prefix.size()), natural_shape(array.extents), array.values});
  if (arrays.empty())
    fail(ExitCode::data, "The checkpoint holds no weights", "no array begins with weights/",
         "Use one that pluvia train wrote.");
  write_safetensors(path, arrays,
                    {{"configuration", checkpoint.configuration},
                     {"checkpoint_digest", digest},
                     {"program", "pluvia " PLUVIA_VERSION}});
}

} // namespace pluvia
