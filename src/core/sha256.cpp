#include "pluvia/core/sha256.hpp"

#include <array>
#include <cstdio>

#include <openssl/evp.h>

#include "pluvia/core/error.hpp"

namespace pluvia {

struct Sha256::Context {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> evp{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  if (EVP_DigestInit_ex(context_->evp.get(), EVP_sha256(), nullptr) != 1)
    fail(ExitCode::failed, "SHA-256 is not available", "OpenSSL refuses it");
}
Sha256::~Sha256() = default;

void Sha256::add(std::span<const char> bytes) {
  EVP_DigestUpdate(context_->evp.get(), bytes.data(), bytes.size());
}

std::string Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
  unsigned length = 0;
  EVP_DigestFinal_ex(context_->evp.get(), hash.data(), &length);
  std::string out = "sha256:";
  for (unsigned i = 0; i < length; ++i) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", hash[i]);
    out += hex;
  }
  return out;
}

std::string sha256(std::string_view text) {
  Sha256 running;
  running.add(text);
  return running.finish();
}

} // namespace pluvia
