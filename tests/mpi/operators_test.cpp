// ranks: 1 2 3 4
// The operator table: one row per operator of the tape. Every row is run through five proofs: the gradient
// against finite differences, the adjoint identity <Ax, r> = <x, A'r> (linear operators), n ranks against one
// rank to the bit (values and input gradients; parameter gradients within rounding), the same bits on one and
// two threads, and the accelerator against the processor.
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "pluvia/core/random.hpp"
#include "pluvia/ops/linear.hpp"
#include "pluvia/ops/loss.hpp"
#include "pluvia/ops/norm.hpp"
#include "pluvia/ops/pointwise.hpp"
#include "pluvia/ops/resample.hpp"
#include "pluvia/parallel/global_attention.hpp"
#include "pluvia/parallel/gradient_sync.hpp"
#include "pluvia/parallel/recurrence.hpp"
#include "pluvia/parallel/stencil.hpp"

namespace pluvia {
namespace {

constexpr int samples = 2;

/// An input of an operator: a field over a level, or one that all cells share.
struct Field {
  int level;
  Index frames, channels;
  std::function<Margin(Decomposition&)> margin = [](Decomposition&) { return Margin{}; };
  enum class Where { cells, shared } where = Where::cells;
};

struct Row {
  std::string name;
  std::vector<Field> inputs;
  std::vector<Shape> parameters;
  enum class Kind { linear, nonlinear } kind;
  std::function<Var(Tape&, Decomposition&, const std::vector<Var>&, std::vector<Parameter>&)> apply;
};

Shape extents(const Field& f, Decomposition& tiles) {
  if (f.where == Field::Where::shared) return {1, f.frames, 1, 1, f.channels};
  const Rect r = tiles.tile(f.level);
  return {samples, f.frames, r.height(), r.width(), f.channels};
}

/// The same number for the same global element on every tiling.
float element(std::uint64_t stream, const Shape& s, const Rect& tile, const Rect& domain, Index b, Index t,
              Index y, Index x, Index c) {
  const Index global =
      (((b * s.t + t) * domain.height() + y + tile.y0) * domain.width() + x + tile.x0) * s.c + c;
  return static_cast<float>(random_normal(stream, RandomPurpose::test, static_cast<std::uint64_t>(global)));
}

template <class F> void for_elements(const Shape& s, F&& f) {
  for (Index b = 0; b < s.b; ++b)
    for (Index t = 0; t < s.t; ++t)
      for (Index y = 0; y < s.y; ++y)
        for (Index x = 0; x < s.x; ++x)
          for (Index c = 0; c < s.c; ++c) f(b, t, y, x, c);
}

Rect place(const Field& f, Decomposition& tiles) {
  return f.where == Field::Where::shared ? Rect{0, 1, 0, 1} : tiles.tile(f.level);
}
Rect whole(const Field& f, Decomposition& tiles) {
  return f.where == Field::Where::shared ? Rect{0, 1, 0, 1} : tiles.domain(f.level);
}

Tensor random_tensor(const Field& f, Decomposition& tiles, std::uint64_t stream) {
  const Shape s = extents(f, tiles);
  Tensor out(s, f.margin(tiles));
  const Rect tile = place(f, tiles), domain = whole(f, tiles);
  for_elements(s, [&](Index b, Index t, Index y, Index x, Index c) {
    out.cell(b, t, y, x)[c] = element(stream, s, tile, domain, b, t, y, x, c);
  });
  return out;
}

struct Outcome {
  std::vector<Var> inputs;
  std::vector<Parameter> parameters;
  Var output;
  double loss = 0; // <output, r> over this rank's cells
};

/// Inputs are x0 + step * d with fields x0 and d fixed by global index; r weighs the output.
Outcome evaluate(const Row& row, Decomposition& tiles, double step, bool backward, GradientBlocks blocks = {},
                 Device device = Device::host, Precision precision = Precision::f32) {
  Outcome out;
  std::uint64_t stream = 100;
  for (const Field& f : row.inputs) {
    const Shape s = extents(f, tiles);
    Tensor value(s, f.margin(tiles));
    const Rect tile = place(f, tiles), domain = whole(f, tiles);
    for_elements(s, [&](Index b, Index t, Index y, Index x, Index c) {
      value.cell(b, t, y, x)[c] =
          element(stream, s, tile, domain, b, t, y, x, c) +
          static_cast<float>(step) * element(stream + 50, s, tile, domain, b, t, y, x, c);
    });
    out.inputs.push_back(Tape::leaf(moved(std::move(value), device), true));
    ++stream;
  }
  for (const Shape& s : row.parameters) {
    Parameter p{"p", Tensor(s), Tensor::zeros(s)};
    for (Index i = 0; i < s.size(); ++i) {
      const auto n = static_cast<std::uint64_t>(i);
      p.value.storage()[static_cast<std::size_t>(i)] =
          static_cast<float>((0.2 * random_normal(stream, RandomPurpose::test, n) +
                              0.2 * step * random_normal(stream + 50, RandomPurpose::test, n)));
    }
    if (blocks) p.sums = OrderFreeSums(p.grad.storage().size());
    p.value = moved(std::move(p.value), device);
    p.grad = moved(std::move(p.grad), device);
    out.parameters.push_back(std::move(p));
    ++stream;
  }
  Tape tape(backward ? Tape::Mode::record : Tape::Mode::forget, precision, Tape::Keep::everything, nullptr,
            blocks);
  out.output = row.apply(tape, tiles, out.inputs, out.parameters);
  const Shape s = out.output->value.shape();
  const Tensor output = out.output->value.to(Device::host);
  int level = 0;
  while (tiles.tile(level).height() != s.y || tiles.tile(level).width() != s.x) ++level;
  Tensor r(s, out.output->grad_margin);
  for_elements(s, [&](Index b, Index t, Index y, Index x, Index c) {
    const float weight = element(7, s, tiles.tile(level), tiles.domain(level), b, t, y, x, c);
    r.cell(b, t, y, x)[c] = weight;
    out.loss += static_cast<double>(weight) * output.cell(b, t, y, x)[c];
  });
  if (backward) {
    out.output->grad = moved(std::move(r), device);
    tape.backward();
  }
  if (device == Device::host) return out;
  const auto home = [](Tensor& t) {
    if (!t.empty()) t = moved(std::move(t), Device::host);
  };
  for (const Var& v : out.inputs) home(v->value), home(v->grad);
  for (Parameter& p : out.parameters) home(p.value), home(p.grad);
  home(out.output->value);
  return out;
}

double reduced(const Communicator& comm, double v) {
  comm.all_reduce(std::span(&v, 1), Reduce::sum);
  return v;
}

/// <gradient, d> over inputs and parameters.
double along_direction(const Row& row, Decomposition& tiles, const Outcome& result) {
  double cells = 0, shared = 0;
  std::uint64_t stream = 150;
  for (std::size_t i = 0; i < row.inputs.size(); ++i, ++stream) {
    const Field& f = row.inputs[i];
    const Tensor& g = result.inputs[i]->grad;
    const Shape s = g.shape();
    for_elements(s, [&](Index b, Index t, Index y, Index x, Index c) {
      cells += static_cast<double>(g.cell(b, t, y, x)[c]) *
               element(stream, s, place(f, tiles), whole(f, tiles), b, t, y, x, c);
    });
  }
  for (std::size_t i = 0; i < row.parameters.size(); ++i, ++stream)
    for (std::size_t n = 0; n < result.parameters[i].grad.storage().size(); ++n)
      shared += static_cast<double>(result.parameters[i].grad.storage()[n]) * 0.2 *
                random_normal(stream, RandomPurpose::test, n);
  return reduced(tiles.comm(), cells + shared);
}

Margin conv_margin(const Stencil& s) {
  return reach(s);
}

AttentionWindow window_of(const std::string& form, Decomposition& tiles, int level, Index frames) {
  const AxisWindow own{AxisWindow::Kind::own, 0, 0};
  const Index radius = 2;
  if (form == "temporal") return {{AxisWindow::Kind::past, 0, frames}, own, own};
  if (form == "neighbourhood") return {own, tiles.around_y(level, radius), tiles.around_x(level, radius)};
  if (form == "windowed") return {own, block_y(tiles.tiling(), level, 3), block_x(tiles.tiling(), level, 3)};
  if (form == "joint")
    return {
        {AxisWindow::Kind::past, 0, frames}, tiles.around_y(level, radius), tiles.around_x(level, radius)};
  if (form == "everywhere")
    return {own, every_row(tiles.tiling(), level), every_column(tiles.tiling(), level)};
  if (form == "lead") return {{AxisWindow::Kind::all, 0, frames}, own, own};
  return {
      {AxisWindow::Kind::all, 0, frames}, tiles.around_y(level, 1), tiles.around_x(level, 1)}; // lead_around
}

Row attention_row(const std::string& form, int level, Index channels = 32) {
  constexpr Index frames = 3, leads = 2;
  const bool lead = form.starts_with("lead");
  const auto keys = [=](Decomposition& t) { return key_margin(t, level, window_of(form, t, level, frames)); };
  const auto queries = [=](Decomposition& t) {
    return query_margin(t, level, window_of(form, t, level, frames));
  };
  Field q{level, frames, channels, queries};
  if (lead) q = {level, leads, channels, [](Decomposition&) { return Margin{}; }, Field::Where::shared};
  return {"attention_" + form + "_level" + std::to_string(level),
          {q, {level, frames, channels, keys}, {level, frames, channels, keys}},
          {},
          Row::Kind::nonlinear,
          [=](Tape& tape, Decomposition& t, const std::vector<Var>& in, std::vector<Parameter>&) {
            return attention(tape, t, level, in[0], in[1], in[2], window_of(form, t, level, frames));
          }};
}

Row conv_row(const std::string& name, int level, Stencil stencil, Index c_in, Index c_out, bool residual) {
  std::vector<Field> inputs{{level, 3, c_in, [=](Decomposition&) { return conv_margin(stencil); }}};
  if (residual) inputs.push_back({level, 3, c_out});
  return {name,
          inputs,
          {{stencil.t, stencil.y, stencil.x, c_in, c_out}, {1, 1, 1, 1, c_out}},
          Row::Kind::linear,
          [=](Tape& tape, Decomposition& t, const std::vector<Var>& in, std::vector<Parameter>& p) {
            return conv3d(tape, t, level, in[0], p[0], p[1], stencil, residual ? in[1] : nullptr);
          }};
}

std::vector<Row> table() {
  std::vector<Row> rows;
  rows.push_back(conv_row("conv3d_causal", 0, causal_stencil(3, 3, 3), 5, 16, false));
  rows.push_back(conv_row("conv3d_residual", 1, causal_stencil(3, 3, 3), 16, 20, true));
  rows.push_back(conv_row("conv3d_one_frame", 2, causal_stencil(1, 3, 3), 16, 32, false));
  rows.push_back(conv_row("conv3d_wider_than_a_tile", 2, causal_stencil(2, 7, 5), 3, 7, false));
  rows.push_back({"linear",
                  {{0, 2, 12}},
                  {{1, 1, 1, 12, 7}, {1, 1, 1, 1, 7}},
                  Row::Kind::linear,
                  [](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>& p) {
                    return linear(t, in[0], p[0], p[1]);
                  }});
  rows.push_back({"linear_residual",
                  {{0, 2, 16}, {0, 2, 40}},
                  {{1, 1, 1, 16, 40}, {1, 1, 1, 1, 40}},
                  Row::Kind::linear,
                  [](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>& p) {
                    return linear(t, in[0], p[0], p[1], in[1]);
                  }});
  rows.push_back({"merge",
                  {{0, 2, 5}},
                  {},
                  Row::Kind::linear,
                  [](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>&) {
                    return merge(t, in[0]);
                  }});
  rows.push_back({"unmerge",
                  {{1, 2, 20}, {0, 2, 5}},
                  {},
                  Row::Kind::linear,
                  [](Tape& t, Decomposition& tiles, const std::vector<Var>& in, std::vector<Parameter>&) {
                    return unmerge(t, in[0], tiles.tile(0).height(), tiles.tile(0).width(), in[1]);
                  }});
  for (Activation a : {Activation::none, Activation::gelu})
    rows.push_back({a == Activation::gelu ? "layer_norm_gelu" : "layer_norm",
                    {{0, 2, 32}},
                    {{1, 1, 1, 1, 32}, {1, 1, 1, 1, 32}},
                    Row::Kind::nonlinear,
                    [a](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>& p) {
                      return layer_norm(t, in[0], p[0], p[1], a);
                    }});
  rows.push_back({"gelu",
                  {{0, 2, 6}},
                  {},
                  Row::Kind::nonlinear,
                  [](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>&) {
                    return gelu(t, in[0]);
                  }});
  rows.push_back({"drop_channels",
                  {{1, 3, 32}},
                  {},
                  Row::Kind::linear,
                  [](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>&) {
                    return drop_channels(t, in[0], {0.4, 7, 3}, 2);
                  }});
  rows.push_back({"blend",
                  {{0, 2, 6}, {0, 2, 6}, {0, 2, 6}},
                  {},
                  Row::Kind::nonlinear,
                  [](Tape& t, Decomposition&, const std::vector<Var>& in, std::vector<Parameter>&) {
                    return blend(t, in[0], in[1], in[2]);
                  }});
  rows.push_back({"recurrence",
                  {{1, 3, 64}},
                  {{1, 1, 1, 16, 64}},
                  Row::Kind::nonlinear,
                  [](Tape& t, Decomposition& tiles, const std::vector<Var>& in, std::vector<Parameter>& p) {
                    return recurrence(t, tiles, in[0], p[0]);
                  }});
  for (const char* form :
       {"temporal", "neighbourhood", "windowed", "joint", "everywhere", "lead", "lead_around"})
    for (int level : {0, 2}) rows.push_back(attention_row(form, level));
  for (int level : {0, 2})
    rows.push_back({"attention_global_level" + std::to_string(level),
                    {{level, 2, 32}, {level, 2, 32}, {level, 2, 32}},
                    {},
                    Row::Kind::nonlinear,
                    [=](Tape& t, Decomposition& tiles, const std::vector<Var>& in, std::vector<Parameter>&) {
                      return global_attention(t, tiles, level, Index{1} << (2 - level), in[0], in[1], in[2]);
                    }});
  rows.push_back({"attention_global_of_values",
                  {{1, 2, 32}},
                  {},
                  Row::Kind::linear,
                  [](Tape& t, Decomposition& tiles, const std::vector<Var>& in, std::vector<Parameter>&) {
                    const Device device = in[0]->value.device();
                    const Var q = Tape::leaf(moved(random_tensor({1, 2, 32}, tiles, 1), device)),
                              k = Tape::leaf(moved(random_tensor({1, 2, 32}, tiles, 2), device));
                    return global_attention(t, tiles, 1, 2, q, k, in[0]);
                  }});
  return rows;
}

Tiling tiling_for(const Communicator& comm, Edge edge, Index block = 0, Index ny = 29, Index nx_closed = 27) {
  const Index nx = edge == Edge::periodic ? (nx_closed + 7) / 8 * 8 : nx_closed;
  const GridShape shape = choose_grid_shape(ny, nx, 3, comm.size(), 0, 0, block);
  return {ny, nx, 3, shape.rows, shape.cols, edge, block};
}

class Operator : public ::testing::TestWithParam<std::tuple<std::size_t, Edge>> {};
class LinearOperator : public Operator {};

std::vector<std::size_t> rows_of(std::initializer_list<Row::Kind> kinds) {
  std::vector<std::size_t> out;
  const std::vector<Row> rows = table();
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (Row::Kind kind : kinds)
      if (rows[i].kind == kind) out.push_back(i);
  return out;
}

std::string row_name(const ::testing::TestParamInfo<std::tuple<std::size_t, Edge>>& info) {
  return table()[std::get<0>(info.param)].name +
         (std::get<1>(info.param) == Edge::periodic ? "_periodic" : "_closed");
}

TEST_P(Operator, GradientMatchesFiniteDifferences) {
  const Row row = table()[std::get<0>(GetParam())];
  const Communicator world(MPI_COMM_WORLD);
  Decomposition tiles(world, tiling_for(world, std::get<1>(GetParam())));
  const Outcome at = evaluate(row, tiles, 0, true);
  const double analytic = along_direction(row, tiles, at);
  const double step = 0.004;
  const double up = reduced(world, evaluate(row, tiles, step, false).loss);
  const double down = reduced(world, evaluate(row, tiles, -step, false).loss);
  const double numeric = (up - down) / (2 * step);
  EXPECT_NEAR(analytic, numeric, 4e-3 * std::abs(numeric) + 0.05) << row.name;
  EXPECT_GT(std::abs(numeric), 1.0) << "the direction must not be flat";
}

TEST_P(Operator, SameBitsOnManyRanksAndThreads) {
  const Row row = table()[std::get<0>(GetParam())];
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  Decomposition tiles(world, tiling_for(world, std::get<1>(GetParam())));
  Decomposition one(alone, tiling_for(alone, std::get<1>(GetParam())));
  omp_set_num_threads(2);
  Outcome many = evaluate(row, tiles, 0, true);
  omp_set_num_threads(1);
  const Outcome single = evaluate(row, one, 0, true);

  std::int64_t different = 0;
  const Shape s = many.output->value.shape();
  int level = 0;
  while (tiles.tile(level).height() != s.y || tiles.tile(level).width() != s.x) ++level;
  const auto compare = [&](const Tensor& a, const Tensor& b, const Rect& tile) {
    for_elements(a.shape(), [&](Index ib, Index t, Index y, Index x, Index c) {
      different += a.cell(ib, t, y, x)[c] != b.cell(ib, t, y + tile.y0, x + tile.x0)[c];
    });
  };
  compare(many.output->value, single.output->value, tiles.tile(level));
  EXPECT_EQ(different, 0) << row.name << ": values";
  for (std::size_t i = 0; i < row.inputs.size(); ++i) {
    if (row.inputs[i].where == Field::Where::shared) continue;
    compare(many.inputs[i]->grad, single.inputs[i]->grad, tiles.tile(row.inputs[i].level));
    EXPECT_EQ(different, 0) << row.name << ": gradient of input " << i;
  }
  const auto close = [&](Tensor& share, const Tensor& all, const char* what) {
    world.all_reduce(share.storage(), Reduce::sum);
    double scale = 0, worst = 0;
    for (std::size_t n = 0; n < share.storage().size(); ++n) {
      scale = std::max(scale, std::abs(static_cast<double>(all.storage()[n])));
      worst = std::max(worst, std::abs(static_cast<double>(share.storage()[n]) - all.storage()[n]));
    }
    EXPECT_LE(worst, 2e-5 * scale) << row.name << ": gradient of " << what;
    EXPECT_GT(scale, 0);
  };
  for (std::size_t i = 0; i < row.parameters.size(); ++i)
    close(many.parameters[i].grad, single.parameters[i].grad, "a parameter");
  for (std::size_t i = 0; i < row.inputs.size(); ++i)
    if (row.inputs[i].where == Field::Where::shared)
      close(many.inputs[i]->grad, single.inputs[i]->grad, "shared queries");
}

/// The largest difference of two tensors' cells over the largest value of the second, in which the first
/// one's lie at `tile`.
double distance(const Tensor& a, const Tensor& b, const Rect& tile = {}) {
  double scale = 0, worst = 0;
  for_elements(a.shape(), [&](Index ib, Index t, Index y, Index x, Index c) {
    const double of_a = a.cell(ib, t, y, x)[c], of_b = b.cell(ib, t, y + tile.y0, x + tile.x0)[c];
    scale = std::max(scale, std::abs(of_b));
    worst = std::isfinite(of_a) ? std::max(worst, std::abs(of_a - of_b)) : INFINITY;
  });
  return scale > 0 ? worst / scale : worst;
}

TEST_P(Operator, OnTheAcceleratorItIsTheSame) {
  if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  const Row row = table()[std::get<0>(GetParam())];
  const Communicator world(MPI_COMM_WORLD);
  Decomposition tiles(world, tiling_for(world, std::get<1>(GetParam())));
  const Outcome host = evaluate(row, tiles, 0, true);
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    // Messages through the hosts' memory, and then from accelerator to accelerator.
    if (precision == Precision::bf16) tiles.link_accelerators();
    const Outcome there = evaluate(row, tiles, 0, true, {}, Device::gpu, precision);
    // In f32 the very chain of roundings; gradients are summed over cells in another order.
    const double most = precision == Precision::f32 ? 1e-4 : 2e-2;
    EXPECT_LE(distance(there.output->value, host.output->value), precision == Precision::f32 ? 0 : most)
        << row.name << ": values";
    for (std::size_t i = 0; i < row.inputs.size(); ++i)
      EXPECT_LE(distance(there.inputs[i]->grad, host.inputs[i]->grad), most)
          << row.name << ": gradient of input " << i;
    for (std::size_t i = 0; i < row.parameters.size(); ++i)
      EXPECT_LE(distance(there.parameters[i].grad, host.parameters[i].grad), most)
          << row.name << ": gradient of parameter " << i;
  }
}

// Tiles so large that an accelerator computes what is inside while halos travel.
TEST(LargeTile, OnLinkedAcceleratorsItIsTheSame) {
  if (accelerator::count() == 0) GTEST_SKIP() << "there is no GPU that CUDA can use";
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  if (world.size() == 1) GTEST_SKIP() << "nobody sends halos";
  const Index ny = 121 * ((world.size() + 3) / 4), nx = 123, widest = 2;
  const Row convolution = conv_row("conv3d", 0, causal_stencil(3, 3, 3), 3, 5, true);
  for (const auto& [row, edge] : {std::pair{convolution, Edge::closed},
                                  {convolution, Edge::periodic},
                                  {attention_row("neighbourhood", 0, 16), Edge::periodic}}) {
    Decomposition tiles(world, tiling_for(world, edge, 0, ny, nx)),
        one(alone, tiling_for(alone, edge, 0, ny, nx));
    tiles.link_accelerators();
    const Rect tile = tiles.tile(0);
    ASSERT_GE(samples * 3 * (tile.height() - 2 * widest) * (tile.width() - 2 * widest), worth_two_launches);
    const Outcome many = evaluate(row, tiles, 0, true, {}, Device::gpu), single = evaluate(row, one, 0, true);
    EXPECT_EQ(distance(many.output->value, single.output->value, tile), 0) << row.name << ": values";
    for (std::size_t i = 0; i < row.inputs.size(); ++i)
      EXPECT_LE(distance(many.inputs[i]->grad, single.inputs[i]->grad, tile), 1e-4)
          << row.name << ": gradient of input " << i;
  }
}

TEST_P(Operator, GradientsInBlocksHaveTheSameBitsOnManyRanksAndThreads) {
  const Row row = table()[std::get<0>(GetParam())];
  const Communicator world(MPI_COMM_WORLD), alone(MPI_COMM_SELF);
  const auto outcome = [&](const Communicator& comm, Index block) {
    Decomposition tiles(comm, tiling_for(comm, std::get<1>(GetParam()), block));
    Outcome out = evaluate(row, tiles, 0, true, {block, tiles.tile(0).height(), tiles.tile(0).width()});
    std::vector<Parameter*> parameters;
    for (Parameter& p : out.parameters) parameters.push_back(&p);
    GradientSync(comm, parameters).finish();
    return out;
  };
  constexpr Index block = 8; // 4 x 4 of them, the last ones narrower
  omp_set_num_threads(2);
  const Outcome many = outcome(world, block);
  omp_set_num_threads(1);
  const Outcome single = outcome(alone, block), whole = outcome(alone, 0);
  const auto compare = [&](const Tensor& a, const Tensor& b, const Tensor& fast, const char* what) {
    double scale = 0, worst = 0;
    for (std::size_t n = 0; n < a.storage().size(); ++n) {
      EXPECT_EQ(a.storage()[n], b.storage()[n]) << row.name << ": " << what << ", element " << n;
      scale = std::max(scale, std::abs(static_cast<double>(fast.storage()[n])));
      worst = std::max(worst, std::abs(static_cast<double>(b.storage()[n]) - fast.storage()[n]));
    }
    EXPECT_GT(scale, 0);
    EXPECT_LE(worst, 2e-5 * scale) << row.name << ": " << what << " against sums over the whole tile";
  };
  for (std::size_t i = 0; i < row.parameters.size(); ++i)
    compare(many.parameters[i].grad, single.parameters[i].grad, whole.parameters[i].grad, "a parameter");
  for (std::size_t i = 0; i < row.inputs.size(); ++i)
    if (row.inputs[i].where == Field::Where::shared && world.rank() == 0)
      compare(many.inputs[i]->grad, single.inputs[i]->grad, whole.inputs[i]->grad, "shared queries");
}

TEST_P(LinearOperator, IsAdjoint) {
  const Row row = table()[std::get<0>(GetParam())];
  const Communicator world(MPI_COMM_WORLD);
  Decomposition tiles(world, tiling_for(world, std::get<1>(GetParam())));
  // Linear in its inputs at fixed weights and zero bias: <A x, r> must equal <x, A' r>.
  Row without_bias = row;
  without_bias.apply = [&row](Tape& tape, Decomposition& t, const std::vector<Var>& in,
                              std::vector<Parameter>& p) {
    if (p.size() == 2) p[1].value.fill(0.0F);
    return row.apply(tape, t, in, p);
  };
  const Outcome result = evaluate(without_bias, tiles, 0, true);
  double right = 0, norm = 0;
  for (std::size_t i = 0; i < row.inputs.size(); ++i) {
    const Tensor &g = result.inputs[i]->grad, &x = result.inputs[i]->value;
    for_elements(g.shape(), [&](Index b, Index t, Index y, Index c_x, Index c) {
      const double product = static_cast<double>(g.cell(b, t, y, c_x)[c]) * x.cell(b, t, y, c_x)[c];
      right += product;
      norm += product * product;
    });
  }
  EXPECT_NEAR(reduced(world, result.loss), reduced(world, right), 1e-4 * std::sqrt(reduced(world, norm)))
      << row.name;
}

const auto edges = ::testing::Values(Edge::closed, Edge::periodic);
INSTANTIATE_TEST_SUITE_P(
    Table, Operator,
    ::testing::Combine(::testing::ValuesIn(rows_of({Row::Kind::linear, Row::Kind::nonlinear})), edges),
    row_name);
INSTANTIATE_TEST_SUITE_P(Table, LinearOperator,
                         ::testing::Combine(::testing::ValuesIn(rows_of({Row::Kind::linear})), edges),
                         row_name);

TEST(OrdinalLoss, GradientMatchesFiniteDifferences) {
  const Shape s{1, 2, 3, 4, 7};
  Tensor x(s);
  Target target;
  for (Index i = 0; i < s.cells(); ++i)
    target.classes.push_back(
        static_cast<std::int8_t>(random_below(8, 1, RandomPurpose::test, static_cast<std::uint64_t>(i))) - 1);
  target.weights.assign(static_cast<std::size_t>(s.b * s.t * s.y), 0.5F);
  for (std::size_t i = 0; i < x.storage().size(); ++i)
    x.storage()[i] = static_cast<float>(random_normal(2, RandomPurpose::test, i));
  const auto loss_at = [&](double step) {
    Tensor moved = x.clone();
    for (std::size_t i = 0; i < x.storage().size(); ++i)
      moved.storage()[i] += static_cast<float>(step * random_normal(3, RandomPurpose::test, i));
    return ordinal_loss(Tape::leaf(std::move(moved)), target, Tape(Tape::Mode::forget)).value();
  };
  const Var leaf = Tape::leaf(x.clone(), true);
  ordinal_loss(leaf, target, Tape(Tape::Mode::record));
  double analytic = 0;
  for (std::size_t i = 0; i < x.storage().size(); ++i)
    analytic += static_cast<double>(leaf->grad.storage()[i]) * random_normal(3, RandomPurpose::test, i);
  EXPECT_NEAR(analytic, (loss_at(0.01) - loss_at(-0.01)) / 0.02, 2e-3 * std::abs(analytic));
}

TEST(Exceedance, NeverRisesWithTheThreshold) {
  for (std::uint64_t i = 0; i < 200; ++i) {
    float z[7], p[6];
    for (std::uint64_t k = 0; k < 7; ++k)
      z[k] = static_cast<float>(5 * random_normal(9, RandomPurpose::test, i * 7 + k));
    exceedance(z, 7, p);
    for (int k = 0; k < 6; ++k) {
      EXPECT_GE(p[k], 0.0F);
      EXPECT_LE(p[k], 1.0F + 1e-6F);
      EXPECT_LE(p[k], k > 0 ? p[k - 1] : 1.01F);
    }
  }
}

} // namespace
} // namespace pluvia
