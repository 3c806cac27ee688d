#include "pluvia/ad/tape.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace pluvia {

void accumulate(Node& node, Tensor&& d) {
  if (!node.needs_grad) return;
  assert(d.shape() == node.value.shape() && d.margin() == node.grad_margin);
  if (node.grad.empty()) {
    node.grad = std::move(d);
    return;
  }
  add_to(node.grad, d);
}

void add_gradient(Parameter& parameter, std::span<const float> d) {
  if (!parameter.sums.empty()) return parameter.sums.add(0, d);
  const auto to = parameter.grad.storage();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += d[i];
}

void add_gradient(Parameter& parameter, const Tensor& d) {
  if (d.device() == Device::host)
    add_gradient(parameter, d.storage());
  else
    add_to(parameter.grad, d);
}

void pass_gradient(Node& from, Node& to) {
  if (to.needs_grad && to.grad.empty() && from.grad.margin() == to.grad_margin)
    to.grad = std::move(from.grad);
  else
    copy_gradient(from, to);
}

void copy_gradient(const Node& from, Node& to) {
  if (!to.needs_grad) return;
  if (to.grad.empty())
    to.grad = from.grad.clone(to.grad_margin);
  else
    add_to(to.grad, from.grad);
}

GradientSlot gradient_slot(Node& node) {
  const bool first = node.grad.empty();
  if (first) node.grad = Tensor(node.value.shape(), node.grad_margin, node.value.device());
  return {node.grad, first ? nullptr : &node.grad};
}

Var Tape::leaf(Tensor value, bool needs_grad) {
  auto node = std::make_shared<Node>();
  node->value = std::move(value);
  node->needs_grad = needs_grad;
  return node;
}

Var Tape::record(Tensor value, const Work& work, std::function<void(Node&)> pull, Margin grad_margin,
                 const std::vector<Parameter*>& parameters) {
  const std::size_t row = profile_ ? profile_->forward(work, value.shape()) : 0;
  auto node = std::make_shared<Node>();
  node->value = std::move(value);
  std::vector<Parameter*> fresh;
  std::ranges::copy_if(parameters, std::back_inserter(fresh),
                       [&](Parameter* p) { return std::ranges::find(met_, p) == met_.end(); });
  met_.insert(met_.end(), fresh.begin(), fresh.end());
  if (mode_ == Mode::record) {
    node->needs_grad = true;
    node->grad_margin = grad_margin;
    entries_.push_back({node, std::move(pull), row, std::move(fresh)});
  }
  return node;
}

Var Tape::apply(const std::function<Var(Tape&, const Var&)>& block, const Var& x) {
  if (!recording() || keep_ == Keep::everything) return block(*this, x);
  Tape forget(Mode::forget, precision_, Keep::everything, profile_, blocks_);
  const Var y = block(forget, x);
  const auto pull = [this, block, x](Node& node) {
    Tape again(Mode::record, precision_, Keep::everything, profile_, blocks_);
    const Var inside = block(again, x);
    inside->grad = node.grad.margin() == inside->grad_margin ? std::move(node.grad)
                                                             : node.grad.clone(inside->grad_margin);
    again.inside_ = true; // what is whole there may have been used before the block, too
    again.backward(listener_ ? [this](auto) { listener_({}); } : GradientListener{}, later_);
  };
  return record(std::move(y->value), {"(block)", x->value.shape().c}, pull, {}, forget.met_);
}

void Tape::defer(std::function<void(const Tensor&)> part, Tensor&& dy) {
  const auto held = std::make_shared<const Tensor>(std::move(dy));
  later_->add([part = std::move(part), held] { part(*held); }, profile_, pulled_row_);
}

void Tape::backward(const GradientListener& listener, DeferredGradients* later) {
  listener_ = listener;
  later_ = later;
  if (profile_) profile_->start();
  while (!entries_.empty()) {
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    pulled_row_ = entry.row;
    if (!entry.node->grad.empty()) entry.pull(*entry.node);
    if (later_) entry.node->grad = {}; // what is left for later may hold on to the value
    if (profile_) profile_->pull(entry.row);
    if (later_ && !inside_) later_->add_whole(std::exchange(entry.whole, {}));
    if (listener_) {
      listener_(entry.whole);
      if (profile_) profile_->start(); // the listener's time is no operator's
    }
    // The closure dies here, and with it the values that nobody else holds.
  }
}

} // namespace pluvia
