#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pluvia/data/sampler.hpp"

namespace pluvia {

/// A sample ready for the network, on one tile.
struct TrainingSample {
  std::size_t number = 0;  ///< in its batch
  std::uint64_t drawn = 0; ///< number in the whole training, which all that is random in it depends on
  SampleInput input;
  std::vector<std::vector<float>> climatology;    ///< pi per lead
  std::vector<std::vector<float>> base;           ///< class probabilities per lead that the logits start from
  std::vector<std::vector<std::int8_t>> observed; ///< per lead of this rank; empty outside the range
};

} // namespace pluvia
