#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace pluvia {

/// A running SHA-256 (FIPS 180-4) of the bytes added so far.
class Sha256 {
public:
  Sha256();
  ~Sha256();
  void add(std::span<const char> bytes);
  /// "sha256:" and 64 hexadecimal digits; nothing may be added afterwards.
  std::string finish();

private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// "sha256:..." of a text.
std::string sha256(std::string_view text);

} // namespace pluvia
