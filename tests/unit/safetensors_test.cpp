// Weights leave in the format that other programs read, whole or not at all.
#include "pluvia/io/safetensors.hpp"

#include <cstring>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "pluvia/model/weights_file.hpp"
#include "scratch.hpp"

using namespace pluvia;
using pluvia::test::failure_of;

namespace {

class Safetensors : public ::testing::Test {
protected:
  const Communicator world{MPI_COMM_WORLD};
  const test::ScratchFolder folder{world};
};

struct Contents {
  nlohmann::json header;
  std::string data;
};
Contents read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::uint64_t length = 0;
  EXPECT_GE(bytes.size(), sizeof length);
  std::memcpy(&length, bytes.data(), sizeof length);
  EXPECT_EQ(length % 8, 0U) << "the values must be aligned";
  EXPECT_EQ(bytes.at(sizeof length), '{');
  return {nlohmann::json::parse(bytes.substr(sizeof length, length)), bytes.substr(sizeof length + length)};
}

std::vector<float> values_of(const Contents& contents, const std::string& name) {
  const auto [from, to] =
      contents.header.at(name).at("data_offsets").get<std::pair<std::size_t, std::size_t>>();
  std::vector<float> out((to - from) / sizeof(float));
  if (!out.empty()) std::memcpy(out.data(), contents.data.data() + from, to - from);
  return out;
}

TEST_F(Safetensors, HoldsArraysAndTexts) {
  const std::vector<float> first{1.5F, -2, 3, 4, 5, 6}, second{7};
  const std::string path = folder / "arrays.safetensors";
  write_safetensors(path, {{"first", {2, 3}, first}, {"a second", {}, second}, {"none", {0, 4}, {}}},
                    {{"note", "\"quoted\"\nlines, 25 \xc2\xb0"}, {"bytes", "\xff"}});
  const Contents found = read(path);
  EXPECT_EQ(found.header.size(), 4U);
  EXPECT_EQ(found.header.at("__metadata__").at("note"), "\"quoted\"\nlines, 25 \xc2\xb0");
  EXPECT_EQ(found.header.at("first").at("dtype"), "F32");
  EXPECT_EQ(found.header.at("first").at("shape"), (std::vector<int>{2, 3}));
  EXPECT_EQ(found.header.at("a second").at("shape"), nlohmann::json::array());
  EXPECT_EQ(values_of(found, "first"), first);
  EXPECT_EQ(values_of(found, "a second"), second);
  EXPECT_EQ(values_of(found, "none"), std::vector<float>());
  EXPECT_EQ(found.data.size(), 7 * sizeof(float)) << "no gaps";
}

TEST_F(Safetensors, IsWrittenWholeOrNotAtAll) {
  const std::vector<float> values{1, 2};
  const std::string path = folder / "kept.safetensors";
  write_safetensors(path, {{"kept", {2}, values}}, {});
  const auto wrong_shape = failure_of([&] { write_safetensors(path, {{"other", {3}, values}}, {}); });
  EXPECT_EQ(wrong_shape.code, ExitCode::failed);
  const auto twice = failure_of([&] {
    write_safetensors(path, {{"a", {2}, values}, {"a", {2}, values}}, {});
  });
  EXPECT_EQ(twice.code, ExitCode::failed);
  EXPECT_EQ(values_of(read(path), "kept"), values);

  std::filesystem::create_directory(folder / "folder");
  for (const char* target : {"folder", "kept.safetensors/below", "nowhere/below"}) {
    const auto failure = failure_of([&] { write_safetensors(folder / target, {{"a", {2}, values}}, {}); });
    EXPECT_EQ(failure.code, ExitCode::failed) << target;
    EXPECT_NE(failure.text.find(target), std::string::npos) << failure.text;
  }
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder / "")) ++files;
  EXPECT_EQ(files, 2U) << "nothing temporary may stay";
}

TEST_F(Safetensors, WeightsTakeTheShapesOthersExpect) {
  Checkpoint c;
  c.configuration = "model:\n  history: 2\n";
  c.arrays["weights/causal"] = {{3, 3, 3, 1, 2}, std::vector<float>(54)};
  c.arrays["weights/flat"] = {{1, 3, 3, 2, 2}, std::vector<float>(36)};
  c.arrays["weights/linear"] = {{1, 1, 1, 2, 3}, {0, 1, 2, 3, 4, 5}};
  c.arrays["weights/vector"] = {{1, 1, 1, 1, 3}, {6, 7, 8}};
  c.arrays["weights/leads"] = {{1, 2, 1, 1, 3}, std::vector<float>(6)};
  c.arrays["adam_first/vector"] = {{1, 1, 1, 1, 3}, {0, 0, 0}};
  const std::string path = folder / "weights.safetensors";
  write_weights(path, c, "sha256:0");
  const Contents found = read(path);
  const auto shape = [&](const char* name) {
    return found.header.at(name).at("shape").get<std::vector<int>>();
  };
  EXPECT_EQ(found.header.size(), 6U) << "five weights and the texts";
  EXPECT_EQ(shape("causal"), (std::vector{3, 3, 3, 1, 2}));
  EXPECT_EQ(shape("flat"), (std::vector{1, 3, 3, 2, 2}));
  EXPECT_EQ(shape("linear"), (std::vector{2, 3}));
  EXPECT_EQ(shape("vector"), (std::vector{3}));
  EXPECT_EQ(shape("leads"), (std::vector{2, 3}));
  EXPECT_EQ(values_of(found, "linear"), c.arrays["weights/linear"].values);
  EXPECT_EQ(found.header.at("__metadata__"), (nlohmann::json{{"configuration", c.configuration},
                                                             {"checkpoint_digest", "sha256:0"},
                                                             {"program", "pluvia " PLUVIA_VERSION}}));
  c.arrays.clear();
  EXPECT_EQ(failure_of([&] { write_weights(path, c, "sha256:0"); }).code, ExitCode::data);
}

} // namespace
