#include "pluvia/ops/output_parts.hpp"

namespace pluvia {

namespace {

bool is_empty(const OutputPart& part) {
  return part.t.size() <= 0 || part.y.size() <= 0 || part.x.size() <= 0;
}

/// What lies around a part within another one that contains it: at most six, none of them empty.
std::vector<OutputPart> parts_around(const OutputPart& inside, const OutputPart& whole) {
  const auto& [t, y, x] = inside;
  std::vector<OutputPart> out;
  for (const OutputPart& part : {OutputPart{{whole.t.from, t.from}, whole.y, whole.x},
                                 {{t.to, whole.t.to}, whole.y, whole.x},
                                 {t, {whole.y.from, y.from}, whole.x},
                                 {t, {y.to, whole.y.to}, whole.x},
                                 {t, y, {whole.x.from, x.from}},
                                 {t, y, {x.to, whole.x.to}}})
    if (!is_empty(part)) out.push_back(part);
  return out;
}

} // namespace

Split split_around(const OutputPart& inside, const Shape& s) {
  if (is_empty(inside)) return {};
  return {{inside}, parts_around(inside, {{0, s.t}, {0, s.y}, {0, s.x}})};
}

Split split_launches(const OutputPart& inside, const Shape& s) {
  if (is_empty(inside)) return {};
  const Index cells = s.b * inside.t.size() * inside.y.size() * inside.x.size();
  return cells < worth_two_launches ? Split{} : split_around(inside, s);
}

} // namespace pluvia
