#!/usr/bin/env bash
# Whatever a user gets wrong ends all ranks within 10 s with one message line and the documented exit code.
# Needs PLUVIA (the program) and MPIEXEC, as ctest sets them.
set -uo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0 checks=0

# check NAME STATUS PATTERN COMMAND...: the command must end so.
check() {
  local name=$1 status=$2 pattern=$3 start=$SECONDS said
  shift 3
  timeout 60 "$@" >out 2>err </dev/null
  local got=$? seconds=$((SECONDS - start)) wrong=""
  said=$(grep -h '^pluvia:' out err)
  [ "$got" -eq "$status" ] || wrong+=" status $got instead of $status;"
  [ "$(grep -c . <<<"$said")" -eq 1 ] || wrong+=" not exactly one message;"
  grep -Eq -- "$pattern" <<<"$said" || wrong+=" no '$pattern' in the message;"
  [ "$seconds" -lt 10 ] || wrong+=" took $seconds s;"
  checks=$((checks + 1))
  if [ -n "$wrong" ]; then
    failures=$((failures + 1))
    printf 'FAILED %s:%s\n' "$name" "$wrong"
    sed 's/^/    /' out err
  else
    printf 'ok %s: %s\n' "$name" "$said"
  fi
}


# refused NAME STATUS PATTERN ARGUMENTS...: by the program alone and on three ranks.
refused() {
  local name=$1 status=$2 pattern=$3
  shift 3
  check "$name, 1 rank" "$status" "$pattern" "$PLUVIA" "$@"
  check "$name, 3 ranks" "$status" "$pattern" \
    "$MPIEXEC" --oversubscribe --bind-to none -np 3 "$PLUVIA" "$@"
}

cat >good.cdl <<'END'
netcdf good {
dimensions: time = 3; lat = 24; lon = 32;
variables:
  double time(time); time:units = "hours since 2020-01-01";
  double lat(lat); lat:units = "degrees_north";
  double lon(lon); lon:units = "degrees_east";
  float rain(time, lat, lon); rain:units = "mm h-1";
data:
  time = 0, 1, 2;
  lat = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23;
  lon = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
        29, 30, 31;
}
END
ncgen -4 -o good.nc good.cdl || exit 1
head -c $(($(stat -c %s good.nc) / 2)) good.nc >torn.nc
: >empty.nc
cat >deck.yaml <<'END'
data:
  archive: good.nc
  predictors: [rain]
  target: rain
  train: {from: 2020-01-01, to: 2020-01-02}
  validate: {from: 2020-01-02, to: 2020-01-03}
  test: {from: 2020-01-03, to: 2020-01-04}
END

# The deck is good, so that what is refused below is refused for its own fault.
"$PLUVIA" plan deck.yaml >out 2>err || { echo "FAILED the good deck"; cat out err; exit 1; }

refused "no subcommand" 2 "subcommand"
refused "unknown subcommand" 2 "no subcommand weather" weather deck.yaml
refused "no configuration" 2 "CONFIG" plan
refused "missing configuration" 2 "nosuch.yaml.*No such file" plan nosuch.yaml
refused "a folder as configuration" 2 "directory" plan .
printf 'data:\n  archiv: good.nc\n' >bad.yaml
refused "unknown key" 2 "archiv.*bad.yaml:2.*Did you mean data.archive" plan bad.yaml
refused "unknown key on the command line" 2 "model.histroy.*command line.*model.history" plan deck.yaml model.histroy=3
printf 'model:\n  history: six\n' >bad.yaml
refused "wrong type" 2 "model.history must be a whole number.*bad.yaml:2.*six" plan bad.yaml
refused "a regression without past rain" 2 "model.base: regression needs past rain" \
  train deck.yaml model.base=regression data.predictors=tb
refused "out of range" 2 "model.history = 0.*1 to 96 frames" plan deck.yaml model.history=0
printf 'model: [\n' >bad.yaml
refused "broken YAML" 2 "not valid YAML.*bad.yaml" plan bad.yaml
refused "unknown section" 2 "Unknown section" config weather
refused "missing archive" 2 "nosuch.nc" plan deck.yaml data.archive=nosuch.nc
refused "no archive" 2 "data.archive" plan deck.yaml data.archive=
refused "torn archive" 3 "torn.nc" plan deck.yaml data.archive=torn.nc
refused "empty archive" 3 "empty.nc" plan deck.yaml data.archive=empty.nc
refused "text as archive" 3 "good.cdl" plan deck.yaml data.archive=good.cdl
refused "too many ranks" 2 "2500 tiles .*parallel.rows is 50, parallel.cols 50" plan deck.yaml parallel.rows=50 parallel.cols=50
refused "more ranks than can be counted" 2 "2147483648 ranks cannot be planned" plan deck.yaml \
  parallel.rows=32768 parallel.cols=65536
refused "more replicas than samples" 2 "1 of 5 replicas have nothing to do .train.batch is 4" plan deck.yaml parallel.replicas=5
check "ranks that do not go into a plan's replicas" 2 "3 ranks cannot be shared out over the replicas" \
  "$MPIEXEC" --oversubscribe --bind-to none -np 3 "$PLUVIA" plan deck.yaml parallel.replicas=2
check "more ranks than coarse cells" 2 "3 tiles cannot be laid out" \
  "$MPIEXEC" --oversubscribe --bind-to none -np 3 "$PLUVIA" plan deck.yaml model.channels=16,16,16,16,16,16

refused "a variable the archive has not" 2 "no variable nosuch" train deck.yaml data.predictors=nosuch
refused "a range without samples" 3 "data\.|range" train deck.yaml data.train.from=2031-01-01 data.train.to=2031-02-01
refused "a training range that is all judged by" 2 "Nothing is left of data.train" train deck.yaml \
  data.test.from=2019-01-01 data.test.to=2021-01-01
refused "ranks that do not go into stages" 2 "ranks cannot be shared out over the stages .*parallel.stages 2" \
  train deck.yaml parallel.stages=2
refused "ranks that do not go into all axes" 2 "over the shares of the channels .*parallel.tensor 2" \
  train deck.yaml parallel.tensor=2
refused "more ranks than channels" 2 "parallel.tensor = 64 .*no level has more than" plan deck.yaml parallel.tensor=64
refused "more stages than there may be" 2 "parallel.stages = 4.*1 to 3" plan deck.yaml parallel.stages=4
mkdir filled locked
: >filled/checkpoint_00000004.h5
refused "the folder of another run" 2 "filled holds .* checkpoint_00000004.h5\) Go on with train.from=latest" \
  train deck.yaml train.output=filled
exec 9>locked/.lock && flock 9
refused "a folder in use" 2 "Another job writes into locked" train deck.yaml train.output=locked
exec 9>&-
printf 'train:\n  output: locked # mine\n' >locked/config.yaml
refused "a configuration in the run folder" 2 "locked/config.yaml was not written by such a run" train deck.yaml train.output=locked
grep -q mine locked/config.yaml || { echo "FAILED it was written over"; exit 1; }
check "a scaling table of more ranks than blocks" 2 "3 tiles .*with train.exact a 24 x 32 grid has 1 x 1 blocks" \
  "$MPIEXEC" --oversubscribe --bind-to none -np 3 "$PLUVIA" bench deck.yaml bench.ny=24 bench.nx=32 bench.ranks=[3] \
  train.exact=true parallel.replicas=3
refused "a run folder that cannot be" 2 "Cannot write into deck.yaml/run .*Not a directory" \
  train deck.yaml train.output=deck.yaml/run
rm -r filled locked
refused "no trained model" 3 "checkpoint_best.h5" forecast deck.yaml
refused "a torn model" 3 "torn.nc" forecast deck.yaml forecast.checkpoint=torn.nc
refused "nothing to show" 2 "nosuch.nc" info nosuch.nc
refused "a text to show" 3 "good.cdl" info good.cdl
refused "no forecasts to verify" 3 "no forecasts" verify deck.yaml
grid=(prepare.south=0 prepare.north=10 prepare.west=0 prepare.east=10 prepare.output=made.nc)
refused "no raw file" 2 "nosuch" prepare deck.yaml "${grid[@]}" 'prepare.inputs=nosuch_*.nc'
refused "no grid" 2 "prepare.south" prepare deck.yaml prepare.inputs=good.nc prepare.output=made.nc
refused "raw files of no known format" 3 "good.nc is of no known format.*MERGIR" \
  prepare deck.yaml "${grid[@]}" prepare.inputs=good.nc
refused "a torn raw file" 3 "torn.nc" prepare deck.yaml "${grid[@]}" prepare.inputs=torn.nc
refused "a tolerance of half a frame" 2 "tolerance_minutes" prepare deck.yaml prepare.tolerance_minutes=15
if "$PLUVIA" --help | grep -q '^  simulate'; then # a build with PETSc
  refused "output that cannot be written" 2 "Not a directory" simulate deck.yaml simulate.output=deck.yaml/archive.nc
  refused "a day that does not exist" 2 "2020-02-31" simulate deck.yaml simulate.from=2020-02-31
  refused "a grid beyond the pole" 2 "latitude" simulate deck.yaml simulate.ny=5000
fi

# One rank fails on its own, the others come to the end, or wait for it in a collective for ever.
mpi=("$MPIEXEC" --oversubscribe --bind-to none)
check "one rank of three fails" 2 "rank 2: Unknown section" \
  "${mpi[@]}" -np 2 "$PLUVIA" config train : -np 1 "$PLUVIA" config weather
check "ranks that are told different things" 2 "Ranks have different command lines" \
  "${mpi[@]}" -np 1 "$PLUVIA" train deck.yaml parallel.time=2 : -np 1 "$PLUVIA" train deck.yaml parallel.replicas=2
check "ranks that are told to do different things" 2 "Ranks have different command lines" \
  "${mpi[@]}" -np 1 "$PLUVIA" train deck.yaml : -np 1 "$PLUVIA" forecast deck.yaml
check "one rank fails, two wait for it" 2 "rank 2: Unknown section" \
  "${mpi[@]}" -np 2 "$PLUVIA" plan deck.yaml : -np 1 "$PLUVIA" config weather

leftovers=$(ls | grep -Ev '^(good|torn|empty)\.|^(deck|bad)\.yaml$|^(out|err|run)$')
if [ -n "$leftovers" ]; then
  echo "FAILED left behind: $leftovers"
  failures=$((failures + 1))
fi
echo "$checks checks, $failures failures"
[ "$failures" -eq 0 ]
