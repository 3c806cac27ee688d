#include "pluvia/ad/deferred_gradients.hpp"

#include <utility>

namespace pluvia {

void DeferredGradients::run(const GradientListener& listener) {
  for (Part& slot : std::exchange(parts_, {})) {
    const Part part = std::move(slot); // dies here, and with it what it holds
    if (part.run) {
      if (part.profile) part.profile->start();
      part.run();
      if (part.profile) part.profile->pull(part.row);
    }
    if (listener) listener(part.whole);
  }
}

} // namespace pluvia
