#!/usr/bin/env bash
# Sets up, builds and runs the tests. Ends with the line "N passed, N failed" (", N skipped" when there are any)
# and a status other than 0 when a test failed or none ran.
#   tools/test.sh          the quick suite
#   tools/test.sh --full   the long tests (label full) as well
selection=(-LE '^full$')
case ${1:-} in
  --full) selection=() ;;
  '') ;;
  *) echo "usage: tools/test.sh [--full]" >&2; exit 2 ;;
esac
dependencies=--tests
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

start=$SECONDS
printf '%-24s' "test"
report=$PWD/$logs/tests.xml
rm -f "$report"
ctest --test-dir "$build" --parallel "$(nproc)" "${selection[@]}" --output-junit "$report" \
  --test-output-size-passed 10000000 --test-output-size-failed 10000000 >"$logs/test.log" 2>&1 || true
printf '%5d s\n' $((SECONDS - start))
python3 tools/summarize_tests.py "$report"
