#include "pluvia/core/config.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "keys.hpp"
#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

std::string section_of(const std::string& name) {
  return name.substr(0, name.find('.'));
}
std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

// ---- Where a value was written, for messages ------------------------------------------------------------

/// "inputs/demo.yaml:12" or "on the command line".
using Place = std::string;

[[noreturn]] void refuse(const std::string& name, const std::string& problem, const Place& place,
                         const std::string& why) {
  fail(ExitCode::usage, problem, place + ": " + why,
       fmt::format("See `pluvia config {}` for what it may be.", section_of(name)));
}

// ---- Nearest valid name -----------------------------------------------------------------------------------

/// Insertions, deletions, replacements and swaps of neighbours between two names
/// (optimal string alignment; Damerau 1964, doi:10.1145/363958.363994).
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> before, last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = last;
    last = row;
  }
  return last[b.size()];
}

/// The name most like `wrong`, or none when nothing is; a right last word in the wrong section counts as
/// near.
std::optional<std::string> nearest(const std::string& wrong, const std::vector<std::string>& names) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, last_part(wrong).size() / 2) + 1;
  for (const std::string& name : names) {
    const std::size_t distance =
        std::min(edit_distance(wrong, name), edit_distance(last_part(wrong), last_part(name)) + 1);
    if (distance < best_distance) best = name, best_distance = distance;
  }
  return best;
}

// ---- Values from YAML -------------------------------------------------------------------------------------

/// What a reader found instead of what it wanted.
struct Mismatch {
  std::string wanted, found;
};

std::string describe(const YAML::Node& node) {
  if (node.IsNull()) return "nothing";
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a group of keys";
  return fmt::format("the text '{}'", node.Scalar());
}

template <class T> T read_number(const YAML::Node& node, const char* wanted) {
  T value{};
  // A quoted scalar (tag "!") is a text, even when it looks like a number.
  if (node.IsScalar() && node.Tag() != "!") {
    const std::string& text = node.Scalar();
    const char *begin = text.data() + (text.starts_with('+') ? 1 : 0), *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, value);
    bool good = error == std::errc{} && stop == end;
    if constexpr (std::is_floating_point_v<T>) good = good && std::isfinite(value);
    if (good) return value;
  }
  throw Mismatch{wanted, describe(node)};
}

void read_value(const YAML::Node& node, std::int64_t& out) {
  out = read_number<std::int64_t>(node, "a whole number");
}
void read_value(const YAML::Node& node, double& out) {
  out = read_number<double>(node, "a number");
}

void read_value(const YAML::Node& node, bool& out) {
  if (!node.IsScalar() || node.Tag() == "!" || (node.Scalar() != "true" && node.Scalar() != "false"))
    throw Mismatch{"true or false", describe(node)};
  out = node.Scalar() == "true";
}

void read_value(const YAML::Node& node, std::string& out) {
  if (!node.IsScalar() && !node.IsNull()) throw Mismatch{"a text", describe(node)};
  out = node.IsNull() ? "" : node.Scalar();
}

void read_value(const YAML::Node& node, LatLon& out) {
  if (!node.IsSequence() || node.size() != 2)
    throw Mismatch{"[latitude, longitude] or a list of such", describe(node)};
  read_value(node[0], out.latitude);
  read_value(node[1], out.longitude);
}

template <class T> void read_value(const YAML::Node& node, std::vector<T>& out) {
  out.clear();
  if (node.IsSequence()) {
    for (const YAML::Node& item : node) read_value(item, out.emplace_back());
  } else if (!std::is_same_v<T, std::string> || !node.IsScalar() || !node.Scalar().empty()) {
    read_value(node, out.emplace_back()); // one value stands for a list of one, an empty text for none
  }
}

void read_value(const YAML::Node& node, std::vector<LatLon>& out) {
  out.clear();
  if (node.IsSequence() && node.size() > 0 && node[0].IsScalar()) return read_value(node, out.emplace_back());
  if (!node.IsSequence()) throw Mismatch{"[latitude, longitude] or a list of such", describe(node)};
  for (const YAML::Node& item : node) read_value(item, out.emplace_back());
}

void read_value(const YAML::Node& node, std::map<std::string, double>& out) {
  if (!node.IsMap() && !node.IsNull()) throw Mismatch{"NAME: NUMBER pairs", describe(node)};
  out.clear();
  for (const auto& pair : node) {
    const std::string name = pair.first.as<std::string>();
    if (out.contains(name)) throw Mismatch{"each name once", fmt::format("'{}' twice", name)};
    read_value(pair.second, out[name]);
  }
}

// ---- Reading ----------------------------------------------------------------------------------------------

/// Assigns values to declared keys and remembers where each came from.
class Reader {
public:
  explicit Reader(Settings& settings) : keys_(declare_keys(settings)) {}

  void read_file(const std::string& text, const std::string& file_name) {
    std::vector<YAML::Node> documents;
    try {
      documents = YAML::LoadAll(text);
    } catch (const YAML::Exception& error) {
      fail(ExitCode::usage, "The configuration is not valid YAML",
           fmt::format("{}:{}: {}", file_name, error.mark.line + 1, error.msg),
           "Indent with spaces; quote texts that begin with one of * & ! % @ [ {.");
    }
    if (documents.size() > 1)
      fail(ExitCode::usage, "The configuration holds more than one YAML document", file_name,
           "Keep one and remove the line '---' between them.");
    file_name_ = file_name;
    if (!documents.empty()) assign("", documents.front());
  }

  void read_override(const std::string& argument) {
    const std::size_t equals = argument.find('=');
    if (equals == std::string::npos || equals == 0)
      fail(ExitCode::usage, fmt::format("'{}' is not an override", argument),
           "on the command line: key=value expected", "Write, for example, train.steps=100.");
    file_name_.clear();
    seen_.clear(); // a later override replaces an earlier one
    const std::string name = argument.substr(0, equals);
    assign(name, override_node(name, argument.substr(equals + 1)));
  }

  /// The place a key was set at, or that it was not.
  Place place(const std::string& name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? "default" : found->second;
  }

private:
  const Key* find(const std::string& name) const {
    const auto found = std::ranges::find(keys_, name, &Key::name);
    return found == keys_.end() ? nullptr : &*found;
  }
  bool is_group(const std::string& name) const {
    return name.empty() ||
           std::ranges::any_of(keys_, [&](const Key& key) { return key.name.starts_with(name + "."); });
  }
  Place here(const YAML::Node& node) const {
    return file_name_.empty() ? "on the command line"
                              : fmt::format("{}:{}", file_name_, node.Mark().line + 1);
  }

  /// The text of an override as the file would hold it: texts need no quotes and lists no brackets.
  YAML::Node override_node(const std::string& name, const std::string& text) const {
    const Key* key = find(name);
    const bool pairs = key != nullptr && std::holds_alternative<std::vector<LatLon>*>(key->target);
    const bool bracketed = text.starts_with(pairs ? "[[" : "[") || text == "[]";
    if (key != nullptr && !bracketed &&
        (std::holds_alternative<std::string*>(key->target) ||
         std::holds_alternative<std::vector<std::string>*>(key->target)))
      return YAML::Node(text);
    const bool numbers = key != nullptr && (std::holds_alternative<std::vector<std::int64_t>*>(key->target) ||
                                            std::holds_alternative<std::vector<double>*>(key->target));
    try {
      return YAML::Load((numbers || pairs) && !bracketed ? "[" + text + "]" : text);
    } catch (const YAML::Exception& error) {
      fail(ExitCode::usage, fmt::format("The value of {} is not valid YAML", name),
           "on the command line: " + std::string(error.msg), "Quote the whole argument for the shell.");
    }
  }

  void assign(const std::string& name, const YAML::Node& node) {
    if (const Key* key = find(name)) return assign_value(*key, node);
    if (is_group(name)) return assign_group(name, node);
    // An entry of a map of numbers, "data.latency_minutes.tb".
    const std::size_t dot = name.rfind('.');
    const Key* parent = dot == std::string::npos ? nullptr : find(name.substr(0, dot));
    if (parent != nullptr) {
      if (auto* const* map = std::get_if<std::map<std::string, double>*>(&parent->target))
        return assign_checked(*parent, (**map)[name.substr(dot + 1)], node);
    }
    refuse_unknown(name, node);
  }

  void assign_group(const std::string& name, const YAML::Node& node) {
    if (node.IsNull()) return;
    if (!node.IsMap())
      fail(ExitCode::usage,
           name.empty() ? "The configuration must be groups of keys" : name + " must be a group of keys",
           fmt::format("{}: {} found", here(node), describe(node)), "See `pluvia config` for all keys.");
    for (const auto& pair : node) {
      if (!pair.first.IsScalar())
        fail(ExitCode::usage, "A key must be a word",
             fmt::format("{}: {} found", here(pair.first), describe(pair.first)),
             "See `pluvia config` for all keys.");
      const std::string path = (name.empty() ? "" : name + ".") + pair.first.Scalar();
      if (!seen_.insert(path).second)
        fail(ExitCode::usage, path + " is given twice", here(pair.first), "Remove one of the two.");
      // Marks of empty values point nowhere useful; that of the key does.
      if (pair.second.IsNull() && find(path) != nullptr)
        assign_empty(*find(path), pair.first);
      else if (find(path) == nullptr && !is_group(path))
        assign(path, pair.first);
      else
        assign(path, pair.second);
    }
  }

  void assign_empty(const Key& key, const YAML::Node& where) {
    const YAML::Node empty("");
    if (auto* const* text = std::get_if<std::string*>(&key.target))
      return assign_checked(key, **text, empty, here(where));
    if (auto* const* texts = std::get_if<std::vector<std::string>*>(&key.target))
      return assign_checked(key, **texts, empty, here(where));
    refuse(key.name, key.name + " has no value", here(where), fmt::format("{} expected", type_name(key)));
  }

  void assign_value(const Key& key, const YAML::Node& node) {
    if (node.IsNull()) return assign_empty(key, node);
    std::visit([&](auto* target) { assign_checked(key, *target, node); }, key.target);
  }

  template <class T> void assign_checked(const Key& key, T& target, const YAML::Node& node) {
    assign_checked(key, target, node, here(node));
  }
  template <class T>
  void assign_checked(const Key& key, T& target, const YAML::Node& node, const Place& place) {
    try {
      read_value(node, target);
    } catch (const Mismatch& mismatch) {
      refuse(key.name, fmt::format("{} must be {}", key.name, mismatch.wanted), place,
             mismatch.found + " found");
    }
    if (!is_allowed(key))
      refuse(key.name, fmt::format("{} = {} is not allowed", key.name, yaml_value(key)), place,
             fmt::format("{}{}{} expected", allowed_values(key), key.unit.empty() ? "" : " ", key.unit));
    places_[key.name] = place;
  }

  [[noreturn]] void refuse_unknown(const std::string& name, const YAML::Node& node) const {
    std::set<std::string> names;
    for (const Key& key : keys_)
      for (std::size_t dot = key.name.find('.');; dot = key.name.find('.', dot + 1)) {
        names.insert(key.name.substr(0, dot)); // the groups that hold it and itself
        if (dot == std::string::npos) break;
      }
    const auto near = nearest(name, {names.begin(), names.end()});
    fail(ExitCode::usage, "Unknown key " + name, here(node),
         near ? fmt::format("Did you mean {}?", *near) : "See `pluvia config` for all keys.");
  }

  std::vector<Key> keys_;
  std::string file_name_; ///< empty while reading overrides
  std::set<std::string> seen_;
  std::map<std::string, Place> places_;
};

// ---- Checks over several keys -----------------------------------------------------------------------------

void check_range(const Reader& reader, const std::string& name, const TimeRange& range) {
  std::string from = range.from, to = range.to;
  for (std::string* text : {&from, &to}) {
    std::ranges::replace(*text, ' ', 'T');
    if (text->ends_with('Z')) text->pop_back();
  }
  // ISO texts order like the times they name, and a shorter one is the start of its day.
  if (!from.empty() && !to.empty() && from >= to)
    refuse(name, name + " is empty", reader.place(name + ".to"),
           fmt::format("it begins at {} and ends at {}, excluded", range.from, range.to));
}

void check_together(const Reader& reader, const Settings& s) {
  check_range(reader, "data.train", s.data.train);
  check_range(reader, "data.validate", s.data.validate);
  check_range(reader, "data.test", s.data.test);
  check_range(reader, "prepare", s.prepare.range);
  if (2 * s.prepare.tolerance_minutes >= s.prepare.frame_minutes)
    refuse(
        "prepare", fmt::format("prepare.tolerance_minutes is {}", s.prepare.tolerance_minutes),
        reader.place("prepare.tolerance_minutes"),
        fmt::format("it must be below half of prepare.frame_minutes, which is {}", s.prepare.frame_minutes));
  if (s.target.leads_hours.front() < s.target.window_hours)
    refuse("target", fmt::format("target.leads_hours begins with {} h", s.target.leads_hours.front()),
           reader.place("target.leads_hours"),
           fmt::format(
               "its window of {} h would begin before the last frame; target.window_hours must not exceed "
               "the first lead",
               s.target.window_hours));
  if (s.model.base == "regression" &&
      std::ranges::find(s.data.predictors, s.data.target) == s.data.predictors.end())
    refuse("data", "model.base: regression needs past rain", reader.place("data.predictors"),
           "data.predictors must name data.target");
  const auto levels = static_cast<std::int64_t>(s.model.channels.size());
  std::set<std::int64_t> attention;
  for (const std::int64_t level : s.model.attention.levels) {
    if (level < -levels || level >= levels)
      refuse("model", fmt::format("model.attention.levels names level {}", level),
             reader.place("model.attention.levels"),
             fmt::format("model.channels has {} levels: {} to {}", levels, -levels, levels - 1));
    if (!attention.insert(level < 0 ? level + levels : level).second)
      refuse("model", fmt::format("model.attention.levels names level {} twice", level),
             reader.place("model.attention.levels"), "a level has attention once");
  }
}

/// `text` with what would end a cell of a Markdown table escaped.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

} // namespace

Settings parse_settings(const std::string& yaml, const std::string& file_name,
                        const std::vector<std::string>& overrides) {
  Settings settings;
  Reader reader(settings);
  reader.read_file(yaml, file_name);
  for (const std::string& argument : overrides) reader.read_override(argument);
  check_together(reader, settings);
  return settings;
}

std::string resolved_yaml(const Settings& settings) {
  Settings copy = settings; // keys point at mutable values
  std::string out;
  std::vector<std::string> open; // the groups that the last line stood in
  for (const Key& key : declare_keys(copy)) {
    std::vector<std::string> path;
    for (std::size_t begin = 0, dot = 0; dot != std::string::npos; begin = dot + 1) {
      dot = key.name.find('.', begin);
      path.push_back(key.name.substr(begin, dot - begin));
    }
    const std::string name = path.back();
    path.pop_back();
    for (std::size_t depth = 0; depth < path.size(); ++depth) {
      if (depth < open.size() && open[depth] == path[depth]) continue;
      open.resize(depth);
      out += std::string(2 * depth, ' ') + path[depth] + ":\n";
      open.push_back(path[depth]);
    }
    open.resize(path.size());
    out += std::string(2 * path.size(), ' ') + name + ": " + yaml_value(key) + "\n";
  }
  return out;
}

std::string key_reference(std::string_view section) {
  Settings defaults;
  std::string out;
  std::string current;
  std::vector<std::string> sections;
  for (const Key& key : declare_keys(defaults)) {
    const std::string group = section_of(key.name);
    if (sections.empty() || sections.back() != group) sections.push_back(group);
    if (!section.empty() && group != section && !key.name.starts_with(std::string(section) + ".")) continue;
    if (group != current) {
      out += fmt::format(
          "{}## {}\n\n| key | type | default | unit | allowed | meaning |\n|---|---|---|---|---|---|\n",
          current.empty() ? "" : "\n", group);
      current = group;
    }
    out += fmt::format("| {} | {} | {} | {} | {} | {} |\n", key.name, type_name(key), cell(yaml_value(key)),
                       key.unit, cell(allowed_values(key)), cell(key.meaning));
  }
  if (out.empty()) {
    const auto near = nearest(std::string(section), sections);
    fail(ExitCode::usage, fmt::format("Unknown section {}", section),
         fmt::format("there are {}", fmt::join(sections, ", ")),
         near ? fmt::format("Did you mean {}?", *near) : "");
  }
  return out;
}

} // namespace pluvia
