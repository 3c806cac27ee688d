#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "pluvia/core/settings.hpp"

namespace pluvia {

/// What a value (of a list: every element) must satisfy.
struct Limits {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool above_low = false;           ///< low itself is excluded
  std::int64_t multiple = 1;        ///< whole numbers: of this
  bool ascending = false;           ///< lists: strictly
  bool not_empty = false;           ///< texts and lists
  bool time = false;                ///< texts: an ISO time
  std::vector<std::string> words{}; ///< texts: one of these
};

/// One declared key: where it lives, what it may hold, what it means.
struct Key {
  using Target = std::variant<std::int64_t*, double*, bool*, std::string*, std::vector<std::int64_t>*,
                              std::vector<double>*, std::vector<std::string>*, std::vector<LatLon>*,
                              std::map<std::string, double>*>;
  std::string name; ///< dotted
  Target target;
  std::string unit;
  Limits limits;
  std::string meaning;
};

/// Every key, bound to `settings`, section by section.
std::vector<Key> declare_keys(Settings& settings);

/// Whether the value the key is bound to lies within its limits.
bool is_allowed(const Key& key);
/// The limits in words, empty when there are none: "1 to 96", "above 0, ascending", "start | end".
std::string allowed_values(const Key& key);
/// "whole number", "list of texts", ...
std::string type_name(const Key& key);
/// The value the key is bound to, on one line of YAML that reads back to the same value.
std::string yaml_value(const Key& key);

} // namespace pluvia
