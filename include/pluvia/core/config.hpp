#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "pluvia/core/settings.hpp"

namespace pluvia {

/// Reads YAML text over the defaults, then "key.path=value" overrides in order, then checks everything.
/// Unknown keys, wrong types and values out of range throw a usage Error that names file, line and the nearest
/// valid key. Local: the caller reads the file on one rank and broadcasts its text.
Settings parse_settings(const std::string& yaml, const std::string& file_name,
                        const std::vector<std::string>& overrides);

/// All keys with their values as YAML that parse_settings reads back to the same Settings.
std::string resolved_yaml(const Settings& settings);

/// The reference of every key (or of one section) as Markdown, made from the declarations.
std::string key_reference(std::string_view section = {});

} // namespace pluvia
