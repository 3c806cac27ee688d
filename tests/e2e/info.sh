#!/usr/bin/env bash
# pluvia info says what each kind of file holds, on one rank and on several, and notices a damaged checkpoint.
set -uo pipefail
build=$(dirname "${PLUVIA:?the program}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0
ranks() { "${MPIEXEC:-mpirun}" --oversubscribe --bind-to none -np "$@"; }

# expect WHAT PATTERN TEXT: the text has a line that matches the extended regular expression.
expect() {
  if grep -qE -- "$2" <<<"$3"; then
    echo "ok: $1: $2"
  else
    echo "FAILED: $1: no line matches '$2' in:"
    echo "$3"
    failures=$((failures + 1))
  fi
}

export PLUVIA_TEST_OUTPUT=$folder
{
  ranks 2 "$build/tests/product_test" --gtest_filter=Product.ForOtherTools &&
    ranks 2 "$build/tests/checkpoint_test" --gtest_filter=CheckpointFile.ForTheProgram &&
    ranks 1 "$build/tests/archive_test" --gtest_filter=Archive.ForTheProgram
} >log 2>&1 || { cat log; exit 1; }

for n in 1 3; do
  said=$(ranks $n "$PLUVIA" info pluvia_pop_i20191231T0600Z.nc)
  expect "forecast on $n" '^init +2019-12-31T06:00:00Z$' "$said"
  expect "forecast on $n" '^thresholds 0.2, 1, 5, 25.4 mm in 6 h$' "$said"
  expect "forecast on $n" '^  24 +(0\.[0-9]{4} +){4}0\.31 %$' "$said"

  said=$(ranks $n "$PLUVIA" info checkpoint.h5)
  expect "checkpoint on $n" '^digest +sha256:[0-9a-f]{64}$' "$said"
  expect "checkpoint on $n" '^step +1234567890123$' "$said"
  expect "checkpoint on $n" '^network +32 parameters' "$said"
  expect "checkpoint on $n" '^base +climatology$' "$said"
  expect "checkpoint on $n" '^configuration sha256:[0-9a-f]{64}$' "$said"

  said=$(ranks $n "$PLUVIA" info archive.nc)
  expect "archive on $n" '^grid +7 x 9 cells$' "$said"
  expect "archive on $n" '^  frames  4, 2 missing$' "$said"
  expect "archive on $n" '^  gap     2 missing after 2019-12-31T07:00:00Z$' "$said"
  expect "archive on $n" '^  rain +0 to 356 ' "$said"
done

printf x | dd of=checkpoint.h5 bs=1 seek=5000 conv=notrunc 2>/dev/null
said=$(ranks 2 "$PLUVIA" info checkpoint.h5 2>&1)
expect "damaged checkpoint, status $?" 'checkpoint.h5 cannot be used .*digest does not match' "$said"

[ "$failures" -eq 0 ] || { echo "$failures checks failed"; exit 1; }
echo "all checks passed"
