#include "pluvia/ad/tape.hpp"

#include <cassert>

#include "pluvia/core/parallel_for.hpp"

namespace pluvia {

void accumulate(Node& node, Tensor&& d) {
  if (!node.needs_grad) return;
  assert(d.shape() == node.value.shape() && d.margin() == node.grad_margin);
  if (node.grad.empty()) {
    node.grad = std::move(d);
    return;
  }
  const Shape& s = d.shape();
  parallel_for(s.b * s.t * s.y, [&](Index row) {
    const Index y = row % s.y, t = row / s.y % s.t, b = row / s.y / s.t;
    float* to = node.grad.cell(b, t, y, 0);
    const float* from = d.cell(b, t, y, 0);
    for (Index i = 0; i < s.x * s.c; ++i) to[i] += from[i];
  });
}

Var Tape::leaf(Tensor value, bool needs_grad) {
  auto node = std::make_shared<Node>();
  node->value = std::move(value);
  node->needs_grad = needs_grad;
  return node;
}

Var Tape::record(Tensor value, const Work& work, std::function<void(Node&)> pull, Margin grad_margin) {
  const std::size_t row = profile_ ? profile_->forward(work, value.shape()) : 0;
  auto node = std::make_shared<Node>();
  node->value = std::move(value);
  if (mode_ == Mode::record) {
    node->needs_grad = true;
    node->grad_margin = grad_margin;
    entries_.push_back({node, std::move(pull), row});
  }
  return node;
}

void Tape::backward() {
  while (!entries_.empty()) {
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    if (!entry.node->grad.empty()) entry.pull(*entry.node);
    if (profile_) profile_->pull(entry.row);
    // The closure dies here, and with it the values that nobody else holds.
  }
}

} // namespace pluvia
