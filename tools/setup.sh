#!/usr/bin/env bash
# Installs what is missing, configures the preset `release` and builds it. Quiet unless a stage fails.
# Sourced by demo.sh and test.sh, which go on with `stage` and the environment for MPI that it sets; `dependencies`
# is handed to install_deps.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/release
logs=build/logs
mkdir -p "$logs"

# Open MPI wants to be told that running as root (in a container) is meant, and that ranks may share cores.
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_mpi_yield_when_idle=1

# stage NAME COMMAND...: runs the command with its output in a log, prints how long it took, and on failure
# prints the end of the log and stops.
stage() {
  local name=$1 start=$SECONDS log
  log=$logs/${name// /_}.log
  shift
  printf '%-24s' "$name"
  if "$@" >"$log" 2>&1; then
    printf '%5d s\n' $((SECONDS - start))
  else
    local status=$?
    printf 'FAILED after %d s (status %d); the end of %s:\n' $((SECONDS - start)) "$status" "$log"
    tail -n 60 "$log"
    exit 1
  fi
}

stage "install dependencies" bash tools/install_deps.sh ${dependencies:-}
stage "configure" cmake --preset release
stage "build" cmake --build --preset release --parallel "$(nproc)"
