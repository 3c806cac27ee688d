// What the network makes of a random input, as a file for tools/reference/compare.py: weights, input, base,
// target, logits, loss and the gradient of every parameter.
//   reference_case OUTPUT NY NX CONFIG [key=value ...]
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <mpi.h>

#include "pluvia/core/config.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/random.hpp"
#include "pluvia/io/safetensors.hpp"
#include "pluvia/model/weights_file.hpp"
#include "pluvia/nn/st_unet.hpp"
#include "pluvia/ops/loss.hpp"

namespace pluvia {
namespace {

constexpr Index samples = 2, inputs = 5;
constexpr std::uint64_t seed = 7;

/// Streams of random numbers; those of parameters follow.
enum Stream : std::uint64_t { input_stream, base_stream, class_stream, weight_stream, parameter_stream };

float noise(std::uint64_t stream, std::uint64_t index) {
  return static_cast<float>(random_normal(seed, RandomPurpose::test, index, stream));
}

/// The interior of a tensor, row-major.
std::vector<float> dense(const Tensor& x) {
  const Tensor copy = x.clone();
  return {copy.storage().begin(), copy.storage().end()};
}

Tensor random_field(const Shape& shape, Margin margin, std::uint64_t stream) {
  Tensor x(shape);
  std::uint64_t i = 0;
  for (float& v : x.storage()) v = noise(stream, i++);
  return x.clone(margin);
}

Target random_target(const Shape& logits) {
  Target target;
  const auto classes = static_cast<std::uint64_t>(logits.c);
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(logits.cells()); ++i)
    target.classes.push_back( // as often without data as of any one class
        static_cast<std::int8_t>(
            static_cast<int>(random_below(classes + 1, seed, RandomPurpose::test, i, class_stream)) - 1));
  for (std::uint64_t row = 0; row < static_cast<std::uint64_t>(logits.b * logits.t * logits.y); ++row)
    target.weights.push_back(static_cast<float>(
        random_uniform(seed, RandomPurpose::test, row, weight_stream) / static_cast<double>(logits.cells())));
  return target;
}

/// Moves what begins as zero or one away from it, so that every parameter matters.
void disturb_constants(const std::vector<Parameter*>& parameters) {
  std::uint64_t stream = parameter_stream;
  for (Parameter* p : parameters) {
    std::uint64_t i = 0;
    ++stream;
    if (p->decay == Parameter::Decay::no)
      for (float& v : p->value.storage()) v += 0.2F * noise(stream, i++);
  }
}

void write_case(const std::string& path, Index ny, Index nx, const Settings& settings) {
  const Communicator alone(MPI_COMM_SELF);
  const StUnetPorts ports{inputs, settings.target.leads_hours,
                          static_cast<Index>(settings.target.thresholds_mm.size()) + 1};
  StUnet network(settings.model, ports, seed);
  const std::vector<Parameter*> parameters = network.parameters().all();
  disturb_constants(parameters);
  Decomposition tiles(alone, Tiling(ny, nx, levels_of(settings.model), 1, 1));
  const Shape outputs{samples, static_cast<Index>(ports.lead_hours.size()), ny, nx, ports.classes};
  const Var input = Tape::leaf(
      random_field({samples, settings.model.history, ny, nx, inputs}, network.input_margin(), input_stream));
  const Var base = Tape::leaf(random_field(outputs, {}, base_stream));
  const Target target = random_target(outputs);

  Tape tape(Tape::Mode::record);
  const Var logits = network.forward(tape, tiles, input, base);
  const float loss = static_cast<float>(ordinal_loss(logits, target, tape).value());
  tape.backward();

  std::vector<NamedValues> arrays;
  std::vector<std::vector<float>> copies; // spans point into their heap, which stays when the list grows
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape,
                       std::vector<float> values) {
    copies.push_back(std::move(values));
    arrays.push_back({name, shape, copies.back()});
  };
  const auto add_field = [&](const std::string& name, const Tensor& x) {
    const Shape s = x.shape();
    add(name, {s.b, s.t, s.y, s.x, s.c}, dense(x));
  };
  add_field("input", input->value);
  add_field("base", base->value);
  add_field("logits", logits->value);
  add("classes", {outputs.b, outputs.t, ny, nx}, {target.classes.begin(), target.classes.end()});
  add("row_weights", {outputs.b, outputs.t, ny}, target.weights);
  add("loss", {}, {loss});
  for (const Parameter* p : parameters) {
    const Shape s = p->value.shape();
    const auto shape = natural_shape({s.b, s.t, s.y, s.x, s.c});
    add("weights/" + p->name, shape, dense(p->value));
    add("gradient/" + p->name, shape, dense(p->grad));
  }
  write_safetensors(path, arrays, {{"configuration", resolved_yaml(settings)}});
}

} // namespace
} // namespace pluvia

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fputs("usage: reference_case OUTPUT NY NX CONFIG [key=value ...]\n", stderr);
    return 2;
  }
  MPI_Init(&argc, &argv);
  int status = 0;
  try {
    std::ifstream file(argv[4]);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    pluvia::write_case(argv[1], std::atoll(argv[2]), std::atoll(argv[3]),
                       pluvia::parse_settings(text, argv[4], {argv + 5, argv + argc}));
  } catch (const pluvia::Error& error) {
    std::fprintf(stderr, "reference_case: %s\n", error.what());
    status = static_cast<int>(error.code());
  }
  MPI_Finalize();
  return status;
}
