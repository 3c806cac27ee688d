// Levels of the network slab by slab. A slab is some whole rows of a tile; it is computed together with what
// its operators see around it, by this rank alone: each level exchanges its input once, as deep as all of its
// operators see together. What is computed too near the edge of a window is wrong and left out; where that
// edge is the domain's, it is the edge that the operators know. Every operator makes the same bits wherever
// the edges of its tile lie, so slabs do, too. Whole levels are in the host's memory; slabs are where the
// network is, so that an accelerator takes domains that would not fit there.
#include <algorithm>

#include "pluvia/nn/st_unet.hpp"
#include "pluvia/ops/linear.hpp"
#include "pluvia/ops/resample.hpp"

namespace pluvia {

namespace {

/// Copies the cells of `part` in all frames between tensors that hold the cells of two rectangles; `from` may
/// hold them in its margins.
void copy_cells(const Tensor& from, const Rect& from_cells, Tensor& to, const Rect& to_cells,
                const Rect& part) {
  if (from.device() != to.device()) return copy_cells(from.to(to.device()), from_cells, to, to_cells, part);
  copy_cells(from, {part.y0 - from_cells.y0, part.x0 - from_cells.x0}, to,
             {part.y0 - to_cells.y0, part.x0 - to_cells.x0}, part.height(), part.width());
}

/// The cells of `part` alone, out of `cells`, for a device.
Var cut(const Var& x, const Rect& cells, const Rect& part, Device device, Margin margin = {}) {
  Shape s = x->value.shape();
  s.y = part.height(), s.x = part.width();
  Tensor out(s, margin, x->value.device());
  copy_cells(x->value, cells, out, part, part);
  return Tape::leaf(moved(std::move(out), device));
}

/// A tile's values, as its slabs come.
Var whole(const Rect& tile, Index samples, Index frames, Index channels, Margin margin) {
  return Tape::leaf(Tensor::apart({samples, frames, tile.height(), tile.width(), channels}, margin));
}

/// x with its margins filled; a copy where it has others.
Var filled(Decomposition& tiles, int level, const HaloPlan& plan, Var x) {
  x = on_device(std::move(x), Device::host);
  if (plan.sends.empty() && plan.receives.empty()) return x;
  if (x->value.margin() != plan.margin) x = Tape::leaf(x->value.clone(plan.margin));
  tiles.exchange(plan, {&x->value}, {"slabs", level}).finish();
  return x;
}

/// This rank, with some cells of a level, and those that share out channels with it.
class Window {
public:
  Window(const Decomposition& tiles, int level, const Rect& cells)
      : alone_(MPI_COMM_SELF), tiles_(alone_, Tiling(tiles.tiling(), level, cells), tiles.channels()) {}
  Decomposition& tiles() { return tiles_; }

private:
  Communicator alone_;
  Decomposition tiles_;
};

/// What is read for the last time, and by nobody else, gives its memory to what is made of it.
void discard_before(const Var& x, const Rect& tile, Index row) {
  if (x.use_count() == 1) x->value.discard_rows(row - tile.y0);
}

std::vector<Rect> slabs_of(const Rect& tile, Index rows) {
  std::vector<Rect> out;
  for (Index y = tile.y0; y < tile.y1;) {
    const Index end = std::min(y / rows * rows + rows, tile.y1); // where blocks of attention end, too
    out.push_back({y, end, tile.x0, tile.x1});
    y = end;
  }
  return out;
}

Var apply(Tape& tape, const LinearLayer& layer, const Var& x, const Var& residual = nullptr) {
  return linear(tape, x, *layer.weight, *layer.bias, residual);
}

} // namespace

std::vector<Index> StUnet::slab_rows(const Decomposition& tiles, Index frames, const SlabSize& slab) const {
  std::vector<Index> out(levels_.size(), 0);
  const Partition& partition = tiles.partition();
  if (partition.time.parts() > 1) return out; // causal convolutions see frames of other ranks
  for (std::size_t l = 0; l < levels_.size(); ++l) {
    const int level = merged_ + static_cast<int>(l);
    Index tallest = 0, widest = 0;
    for (int rank = 0; rank < partition.ranks(); ++rank) {
      const Rect tile = partition.tile(rank, level);
      tallest = std::max(tallest, tile.height()), widest = std::max(widest, tile.width());
    }
    const bool possible = std::ranges::all_of(levels_[l].attention, [&](const SpaceTimeBlock& block) {
      // Blocks of columns do not go on across the edge of a periodic axis.
      const bool torn = block.settings.form == "windowed" && partition.tiling.x_edge() == Edge::periodic &&
                        partition.tiling.cols() > 1;
      return block.settings.global == "none" && !torn;
    });
    const Index values = slab.values * (parameters_.device() == Device::gpu ? 16 : 1);
    const Index fit = values / (frames * widest * settings_.channels[l]);
    constexpr Index step = 16; // of blocks of attention and of coarser cells
    const Index rows = std::max(slab.rows, fit > step ? fit / step * step : fit / 2 * 2);
    if (possible && rows < tallest) out[l] = rows;
  }
  return out;
}

Rect StUnet::seen_by_skip(const Tiling& tiling, std::size_t l, const Rect& cells) const {
  const int level = merged_ + static_cast<int>(l);
  return tiling.existing(level, seen_by(levels_[l].skip, tiling, level, cells));
}

Rect StUnet::seen_by_level(const Tiling& tiling, std::size_t l, const Rect& cells) const {
  const int level = merged_ + static_cast<int>(l);
  Rect seen = seen_by_skip(tiling, l, cells);
  for (const SpaceTimeBlock& block : levels_[l].attention)
    seen = tiling.existing(level, seen_by(block, tiling, level, seen));
  seen = tiling.existing(level, seen_by(levels_[l].encode, tiling, level, seen));
  return l > 0 ? seen : tiling.existing(level, grown(seen, reach(stem_.stencil)));
}

Rect StUnet::seen_by_decoder(const Tiling& tiling, std::size_t l, const Rect& cells) const {
  const int level = merged_ + static_cast<int>(l);
  const Rect seen = seen_by(levels_[l].decode, tiling, level, cells);
  return tiling.existing(level, finer(coarser(seen))); // of whole cells of the next level
}

HaloPlan StUnet::input_halo(const Decomposition& tiles, std::size_t l) const {
  const Tiling& tiling = tiles.tiling();
  if (l == 0 && merged_ == 1)
    return plan_halo(tiles.partition(), 0, tiles.comm().rank(), [&](const Rect& tile) {
      return tiling.existing(0, finer(seen_by_level(tiling, 0, coarser(tile))));
    });
  return plan_halo(tiles.partition(), merged_ + static_cast<int>(l), tiles.comm().rank(),
                   [&](const Rect& tile) { return seen_by_level(tiling, l, tile); });
}

HaloPlan StUnet::skip_halo(const Decomposition& tiles, std::size_t l) const {
  const Tiling& tiling = tiles.tiling();
  return plan_halo(tiles.partition(), merged_ + static_cast<int>(l), tiles.comm().rank(),
                   [&](const Rect& tile) { return seen_by_decoder(tiling, l, tile); });
}

HaloPlan StUnet::decoder_halo(const Decomposition& tiles, std::size_t l) const {
  const Tiling& tiling = tiles.tiling();
  const int level = merged_ + static_cast<int>(l);
  return plan_halo(tiles.partition(), level + 1, tiles.comm().rank(), [&](const Rect& tile) {
    return coarser(seen_by_decoder(tiling, l, tiling.existing(level, finer(tile))));
  });
}

Margin StUnet::decoder_margin(const Decomposition& tiles, const std::vector<Index>& rows,
                              std::size_t l) const {
  return l > 0 && rows[l - 1] > 0 ? decoder_halo(tiles, l - 1).margin : Margin{};
}

StUnet::Descent StUnet::descend(Tape& tape, Decomposition& tiles, const std::vector<Index>& rows,
                                std::size_t l, Var x) {
  const Level& layers = levels_[l];
  const Device device = parameters_.device();
  const Tiling& tiling = tiles.tiling();
  const bool first = l == 0, last = l + 1 == levels_.size(), merges = first && merged_ == 1;
  const int level = merged_ + static_cast<int>(l);
  const Rect tile = tiles.tile(level);
  x = filled(tiles, level, input_halo(tiles, l), std::move(x));
  const Shape s = x->value.shape();
  Descent out;
  // The coarsest skip is what the decoder begins with.
  out.skip = whole(tile, s.b, layers.skip.lead_embedding->value.shape().t, settings_.channels[l],
                   last ? decoder_margin(tiles, rows, l) : skip_halo(tiles, l).margin);
  const Rect coarse_tile = last ? Rect{} : tiles.tile(level + 1);
  if (!last)
    out.next = whole(coarse_tile, s.b, s.t, settings_.channels[l + 1],
                     rows[l + 1] > 0 ? input_halo(tiles, l + 1).margin : Margin{});
  for (const Rect& slab : slabs_of(tile, rows[l])) {
    const Rect seen = seen_by_level(tiling, l, slab), asked = seen_by_skip(tiling, l, slab);
    Window window(tiles, level, seen);
    // Later slabs see no row before.
    discard_before(x, merges ? tiles.tile(0) : tile, merges ? 2 * seen.y0 : seen.y0);
    Var v = merges ? cut(x, tiles.tile(0), tiling.existing(0, finer(seen)), device)
                   : cut(x, tile, seen, device, first ? input_margin() : Margin{});
    if (first) v = begin(tape, window.tiles(), std::move(v));
    v = pluvia::forward(layers.encode, tape, window.tiles(), level, v);
    for (const SpaceTimeBlock& block : layers.attention)
      v = pluvia::forward(block, tape, window.tiles(), level, v);
    v = cut(v, seen, asked, device);
    if (!last) {
      const Var coarse = apply(tape, layers.down, merge(tape, cut(v, asked, slab, device)));
      copy_cells(coarse->value, coarser(slab), out.next->value, coarse_tile, coarser(slab));
    }
    Window around(tiles, level, asked);
    v = pluvia::forward(layers.skip, tape, around.tiles(), level, v);
    copy_cells(v->value, asked, out.skip->value, tile, slab);
  }
  return out;
}

Var StUnet::ascend(Tape& tape, Decomposition& tiles, const std::vector<Index>& rows, std::size_t l, Var d,
                   Var skip, const Var& base) {
  const Level& layers = levels_[l];
  const Device device = parameters_.device();
  const Tiling& tiling = tiles.tiling();
  const int level = merged_ + static_cast<int>(l);
  const Rect tile = tiles.tile(level), coarse_tile = tiles.tile(level + 1), finest = tiles.tile(0);
  d = filled(tiles, level + 1, decoder_halo(tiles, l), std::move(d));
  skip = filled(tiles, level, skip_halo(tiles, l), std::move(skip));
  const Shape s = d->value.shape();
  Var out = l > 0 ? whole(tile, s.b, s.t, settings_.channels[l], decoder_margin(tiles, rows, l))
                  : whole(finest, s.b, s.t, base->value.shape().c, {});
  for (const Rect& slab : slabs_of(tile, rows[l])) {
    const Rect seen = seen_by_decoder(tiling, l, slab);
    Window window(tiles, level, seen);
    discard_before(d, coarse_tile, coarser(seen).y0);
    discard_before(skip, tile, seen.y0);
    Var v = apply(tape, layers.up, cut(d, coarse_tile, coarser(seen), device));
    v = unmerge(tape, v, seen.height(), seen.width(), cut(skip, tile, seen, device));
    v = pluvia::forward(layers.decode, tape, window.tiles(), level, v);
    if (l > 0) {
      copy_cells(v->value, seen, out->value, tile, slab);
      continue;
    }
    v = cut(v, seen, slab, device);
    const Rect cells = merged_ == 0 ? slab : tiling.existing(0, finer(slab));
    v = merged_ == 0 ? apply(tape, head_, v, cut(base, finest, cells, device))
                     : unmerge(tape, apply(tape, head_, v), cells.height(), cells.width(),
                               cut(base, finest, cells, device));
    copy_cells(v->value, cells, out->value, finest, cells);
  }
  return out;
}

} // namespace pluvia
