#include "pluvia/core/error.hpp"

namespace pluvia {

void fail(ExitCode code, std::string_view problem, std::string_view why, std::string_view suggestion) {
  std::string text(problem);
  if (!why.empty()) text.append(" (").append(why).append(")");
  if (!suggestion.empty()) text.append(why.empty() ? ". " : " ").append(suggestion);
  throw Error(code, text);
}

} // namespace pluvia
