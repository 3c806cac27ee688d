#include "pluvia/nn/pipeline.hpp"

#include <algorithm>
#include <cassert>
#include <map>
#include <utility>

#include "pluvia/comm/mail.hpp"

namespace pluvia {

namespace {

using Kind = Instruction::Kind;
using Crossing = Stages::Crossing;

constexpr int value_tag = 21, gradient_tag = 22;

/// One sample between its forward pass and the last of its gradients.
struct InFlight {
  std::unique_ptr<Tape> tape;
  std::map<std::size_t, Var> received, sent; ///< by crossing
  DeferredGradients later;
};

} // namespace

Pipeline::Pipeline(StUnet& network, const StUnetPorts& ports, Decomposition& tiles, const Communicator& line,
                   Stages stages)
    : network_(network), tiles_(tiles), line_(line), stages_(std::move(stages)), links_(stages_.links()) {
  assert(line.size() == stages_.count());
  for (const Crossing& c : stages_.crossings)
    shapes_.push_back(
        crossing_shape(stages_, c, network.settings(), ports, tiles.partition(), tiles.comm().rank()));
}

/// A step that is under way.
struct Pipeline::Running {
  Pipeline& pipeline;
  const Batch& batch;
  std::vector<InFlight> samples;
  /// What is expected next, by crossing: values of what comes in, gradients of what goes out.
  std::map<std::size_t, Tensor> expected;
  Mail mail; // gone before what it writes to

  Running(Pipeline& p, const Batch& b)
      : pipeline(p), batch(b), samples(static_cast<std::size_t>(b.size)), mail(p.line_) {
    for (const StageLink& link : p.links_) {
      if (link.to == own()) expect(value_tag, link.from);
      if (link.from == own()) expect(gradient_tag, link.to);
    }
  }

  int own() const { return pipeline.line_.rank(); }
  Device device() const { return pipeline.network_.parameters().device(); }
  InFlight& sample(int m) { return samples[static_cast<std::size_t>(m)]; }

  /// Those from or to a peer: values flow from earlier to later stages, gradients back.
  template <class Visit> void for_crossings(int peer, Visit&& visit) {
    const std::vector<Crossing>& all = pipeline.stages_.crossings;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (all[i].from == std::min(own(), peer) && all[i].to == std::max(own(), peer)) visit(i);
  }

  void expect(int tag, int peer) {
    for_crossings(peer, [&](std::size_t i) {
      Tensor& room = expected[i] = Tensor(pipeline.shapes_[i]);
      mail.expect(peer, tag, room.storage());
    });
  }
  /// Those of the next sample may follow.
  template <class Take> void receive(int tag, const Instruction& what, Take&& take) {
    std::vector<std::pair<std::size_t, Tensor>> here;
    for_crossings(what.peer, [&](std::size_t i) {
      mail.await(what.peer, tag);
      here.emplace_back(i, std::move(expected[i]));
    });
    if (what.micro_batch + 1 < batch.size) expect(tag, what.peer);
    for (auto& [i, tensor] : here) take(i, std::move(tensor));
  }

  void receive_values(const Instruction& what) {
    receive(value_tag, what, [&](std::size_t i, Tensor&& tensor) {
      sample(what.micro_batch).received[i] = Tape::leaf(moved(std::move(tensor), device()), true);
    });
  }

  void forward(int m) {
    InFlight& s = sample(m);
    s.tape = batch.tape();
    Sample given = batch.load(m);
    for (const Var& v : {given.input, given.base})
      if (v) v->value = moved(std::move(v->value), device());
    StUnet::Flow flow{std::move(given.input), std::vector<Var>(pipeline.network_.settings().channels.size())};
    const std::vector<Crossing>& all = pipeline.stages_.crossings;
    const auto place = [&](std::size_t i) -> Var& {
      return all[i].skip == Crossing::main_line ? flow.x : flow.skips[static_cast<std::size_t>(all[i].skip)];
    };
    for (const auto& [i, value] : s.received) place(i) = value;
    pipeline.network_.advance(*s.tape, pipeline.tiles_,
                              pipeline.stages_.pieces[static_cast<std::size_t>(own())], flow, given.base,
                              given.dropout);
    for (std::size_t i = 0; i < all.size(); ++i)
      if (all[i].from == own()) s.sent[i] = std::move(place(i));
    if (pipeline.last()) batch.score(m, flow.x, *s.tape);
  }

  void send_values(const Instruction& what) {
    for_crossings(what.peer, [&](std::size_t i) {
      const Var& value = sample(what.micro_batch).sent[i];
      assert(value->value.dense() && value->value.shape() == pipeline.shapes_[i]);
      if (device() == Device::host)
        mail.send(what.peer, value_tag, value->value.storage(), value);
      else
        send(what.peer, value_tag, value->value.to(Device::host));
    });
  }

  void send(int peer, int tag, Tensor&& tensor) {
    const auto kept = std::make_shared<const Tensor>(std::move(tensor));
    mail.send(peer, tag, kept->storage(), kept);
  }

  void receive_gradients(const Instruction& what) {
    receive(gradient_tag, what, [&](std::size_t i, Tensor&& tensor) {
      Node& node = *sample(what.micro_batch).sent[i];
      Tensor grad = moved(std::move(tensor), device());
      node.grad = node.grad_margin == Margin{} ? std::move(grad) : grad.clone(node.grad_margin);
    });
  }

  bool is_last(int m) const { return m + 1 == batch.size; }

  void backward_inputs(int m) {
    InFlight& s = sample(m);
    s.sent.clear();
    if (is_last(m) && batch.whole) { // those of other stages have all they get from here
      std::vector<Parameter*> others = pipeline.network_.parameters().all();
      std::erase_if(others, [&](Parameter* p) { return std::ranges::count(s.tape->parameters(), p) > 0; });
      batch.whole(others);
    }
    // Nobody waits for the first stage's inputs: there weights follow at once, and their values go.
    if (pipeline.first())
      s.tape->backward(is_last(m) ? batch.whole : GradientListener{});
    else
      s.tape->backward({}, &s.later);
    s.tape.reset();
  }

  void send_gradients(const Instruction& what) {
    for_crossings(what.peer, [&](std::size_t i) {
      Var& value = sample(what.micro_batch).received[i];
      if (value->grad.empty()) value->grad = Tensor::zeros(pipeline.shapes_[i]);
      send(what.peer, gradient_tag, moved(std::move(value->grad), Device::host));
      value.reset();
    });
  }

  void backward_weights(int m) { sample(m).later.run(is_last(m) ? batch.whole : GradientListener{}); }

  void follow(const Instruction& what) {
    switch (what.kind) {
    case Kind::receive_values:
      return receive_values(what);
    case Kind::forward:
      return forward(what.micro_batch);
    case Kind::send_values:
      return send_values(what);
    case Kind::receive_gradients:
      return receive_gradients(what);
    case Kind::backward_inputs:
      return backward_inputs(what.micro_batch);
    case Kind::send_gradients:
      return send_gradients(what);
    case Kind::backward_weights:
      return backward_weights(what.micro_batch);
    }
  }
};

void Pipeline::run(const Batch& batch) {
  Running step(*this, batch);
  for (const Instruction& what : list_instructions(line_.size(), line_.rank(), batch.size, links_)) {
    step.follow(what);
    if (batch.followed) batch.followed(what);
  }
  step.mail.finish();
}

} // namespace pluvia
