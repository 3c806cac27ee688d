#include "pluvia/parallel/stencil.hpp"

#include <algorithm>
#include <cassert>
#include <memory>

#include "pluvia/ops/convolution_gradients.hpp"

namespace pluvia {

namespace {

/// Queries are indexed by lead where they see all frames, else by frame, as keys are.
TileOrigin origin_of(const Decomposition& tiles, int level, const AttentionWindow& window) {
  const Rect tile = tiles.tile(level);
  const Index frame = tiles.frames(0).from,
              query = window.t.kind == AxisWindow::Kind::all ? tiles.leads(0).from : frame;
  return {tile.y0, tile.x0, query, frame};
}

bool at_home(const Decomposition& tiles, const AttentionWindow& window) {
  return stays_home(tiles.partition().time, window);
}

void show(const AttentionView& view, const Tensor& q, const Tensor& k, const AttentionWindow& window,
          TileOrigin origin) {
  if (k.device() == Device::host) return view(q, k, window, origin);
  view(q.to(Device::host), k.to(Device::host), window, origin);
}

bool others_send(const HaloPlan& plan, int rank) {
  return std::ranges::any_of(plan.receives, [&](const auto& piece) { return piece.peer != rank; });
}

/// The outputs of a convolution that read nothing of what an exchange brings, and the others.
Split split(const HaloPlan& plan, const Tensor& y, const Margin& m, Precision precision) {
  const Shape& s = y.shape();
  Margin wet; // margins that hold more than zeros
  for (const HaloPlan::Piece& piece : plan.receives) {
    const Span frames = piece.frames_of(s.t);
    if (frames.from < 0) wet.t_lo = m.t_lo;
    if (frames.to > s.t) wet.t_hi = m.t_hi;
    if (piece.cells.y0 < 0) wet.y_lo = m.y_lo;
    if (piece.cells.y1 > s.y) wet.y_hi = m.y_hi;
    if (piece.cells.x0 < 0) wet.x_lo = m.x_lo;
    if (piece.cells.x1 > s.x) wet.x_hi = m.x_hi;
  }
  Span t{wet.t_lo, s.t - wet.t_hi};
  const Span rows{wet.y_lo, s.y - wet.y_hi};
  if (y.device() == Device::gpu) return split_launches({t, rows, {wet.x_lo, s.x - wet.x_hi}}, s);
  // Columns are left out by whole tiles of the kernel, so that a row takes no more of them than in one piece.
  // Short rows are one or two tiles, all of which a halo may touch: nothing is inside then.
  const Index tile = cells_at_once(precision, s.x);
  const auto tiles = [&](Index cells) { return (cells + tile - 1) / tile * tile; };
  const Span x{tiles(wet.x_lo), wet.x_hi > 0 ? (s.x - wet.x_hi) / tile * tile : s.x};
  // Rows in pieces are read twice, which costs up to a tenth: a quarter of the work hides a message as well.
  if (t.size() > 0 && x.size() < s.x) t.to = t.from + std::max<Index>(1, t.size() / 4);
  return split_around({t, rows, x}, s);
}

} // namespace

Var conv3d(Tape& tape, Decomposition& tiles, int level, const Var& x, Parameter& weight, Parameter& bias,
           const Stencil& stencil, const Var& residual) {
  assert(x->value.margin() == reach(stencil));
  Shape s = x->value.shape();
  s.c = weight.value.shape().c;
  const HaloPlan& plan = tiles.stencil_halo(level, stencil);
  HaloExchange halo = tiles.exchange(plan, {&x->value}, {"conv3d", level});
  Tensor y(s, {}, x->value.device());
  const Precision precision = tape.precision();
  const float* const b = bias.value.cell(0, 0, 0, 0);
  const Tensor* const addend = residual ? &residual->value : nullptr;
  // What is inside is computed while the halo travels, to the same bits: every output is a chain of its own.
  const Split parts =
      others_send(plan, tiles.comm().rank()) ? split(plan, y, x->value.margin(), precision) : Split{};
  convolution(precision, x->value, weight.value, stencil, b, addend, y, parts, [&] { halo.finish(); });
  const auto pull = [&tape, &tiles, level, precision, x, &weight, &bias, stencil, residual](Node& node) {
    HaloExchange exchange = tiles.exchange(tiles.stencil_halo(level, transposed(stencil)), {&node.grad},
                                           {"conv3d", level, Layer::Pass::backward});
    pull_convolution(tape, node, precision, x, weight, bias, stencil, residual, [&] { exchange.finish(); });
  };
  const Work work = convolution_work("conv3d", s, weight.value.shape(), x->needs_grad, tape.blocks().members);
  return tape.record(std::move(y), work, pull, reach(transposed(stencil)), {&weight, &bias});
}

const char* attention_name(const AttentionWindow& window) {
  if (stays_home({}, window)) return "attention (time)";
  return window.y.kind == AxisWindow::Kind::all ? "attention (global)" : "attention (space)";
}

Margin query_margin(Decomposition& tiles, int level, const AttentionWindow& window) {
  return at_home(tiles, window) ? Margin{} : tiles.query_halo(level, window).margin;
}

Margin key_margin(Decomposition& tiles, int level, const AttentionWindow& window) {
  return at_home(tiles, window) ? Margin{} : tiles.key_halo(level, window).margin;
}

Var attention(Tape& tape, Decomposition& tiles, int level, const Var& q, const Var& k, const Var& v,
              const AttentionWindow& window, const AttentionView& view) {
  const TileOrigin origin = origin_of(tiles, level, window);
  const bool home = at_home(tiles, window);
  auto halo = home ? nullptr
                   : tiles.held_exchange(tiles.key_halo(level, window), {&k->value, &v->value},
                                         {attention_name(window), level});
  // Queries of leads are shared; known alike on every rank, even one whose tile is a single cell.
  const bool shared = window.t.kind == AxisWindow::Kind::all;
  Shape s = k->value.shape();
  s.t = shared ? tiles.leads(q->value.shape().t).size() : q->value.shape().t;
  Shape per_head = s;
  per_head.c = s.c / head_channels;
  const Margin margin = query_margin(tiles, level, window);
  const Device device = k->value.device();
  Tensor o(s, {}, device);
  auto log_sum = std::make_shared<Tensor>(per_head, margin, device);
  if (halo && !others_send(tiles.key_halo(level, window), tiles.comm().rank())) halo->finish(), halo.reset();
  // What is inside is computed while the halo travels, to the same bits: every query's sums are its own.
  attend(q->value, k->value, v->value, window, origin, o, *log_sum,
         halo ? Arrival([&] { halo->finish(); }) : Arrival{});
  if (view) show(view, q->value, k->value, window, origin);

  const auto pull = [&tiles, level, blocks = tape.blocks(), q, k, v, window, origin, home, shared,
                     log_sum](Node& node) {
    const Device device = k->value.device();
    Tensor delta(log_sum->shape(), log_sum->margin(), device);
    attend_delta(node.grad, node.value, delta);
    std::unique_ptr<HaloExchange> halo; // travels behind the gradients of queries
    if (!home) {
      std::vector<Tensor*> haloed{&node.grad, log_sum.get(), &delta};
      if (!shared) haloed.push_back(&q->value);
      halo = tiles.held_exchange(tiles.query_halo(level, window), haloed,
                                 {attention_name(window), level, Layer::Pass::backward});
    }
    Tensor dk(k->value.shape(), k->grad_margin, device), dv(v->value.shape(), v->grad_margin, device);
    Tensor dq;
    if (q->needs_grad) dq = Tensor(q->value.shape(), q->grad_margin, device);
    OrderFreeSums sums(blocks && shared && q->needs_grad ? dq.storage().size() : 0);
    attend_gradients(q->value, k->value, v->value, node.grad, *log_sum, delta, window, origin,
                     q->needs_grad ? &dq : nullptr, dk, dv, sums.empty() ? nullptr : &sums,
                     halo ? Arrival([&] { halo->finish(); }) : Arrival{});
    if (!sums.empty()) {
      // Products of it must see the whole gradient, rounded once; and one rank alone, or it would count for
      // each.
      tiles.comm().all_reduce(sums.limbs(), Reduce::sum);
      sums.round_to(dq.storage());
      if (tiles.comm().rank() != 0) dq.fill(0.0F);
    }
    if (q->needs_grad) accumulate(*q, std::move(dq));
    accumulate(*k, std::move(dk));
    accumulate(*v, std::move(dv));
  };
  // Two products of a query with a key forward; five backward, which makes the scores anew.
  const double flop = 4.0 * attended_pairs(s, window, origin) * static_cast<double>(s.c);
  return tape.record(std::move(o), {attention_name(window), s.c, flop, 2.5 * flop}, pull, margin);
}

} // namespace pluvia
