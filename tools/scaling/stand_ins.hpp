#pragma once
#include "measured.hpp"

namespace pluvia {

/// What local operators take from now on, on all ranks; must outlive them.
void set_measured(const Measured& measured);
const Measured& measured();

} // namespace pluvia
