#include "pluvia/core/sha256.hpp"

#include <gtest/gtest.h>

using namespace pluvia;

// The examples of FIPS 180-4 and NIST's "Secure Hash Standard" example values.
TEST(Sha256, AgreesWithTheStandard) {
  EXPECT_EQ(sha256(""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 million;
  const std::string piece(1000, 'a');
  for (int i = 0; i < 1000; ++i) million.add(piece);
  EXPECT_EQ(million.finish(), "sha256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
