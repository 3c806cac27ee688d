#!/usr/bin/env bash
# Installs what Pluvia needs on Debian 12 or newer and on Ubuntu; says nothing when nothing is missing.
# Elsewhere it lists what to install by the system's own means.
#   tools/install_deps.sh [--tests]    --tests adds what only tests need
set -euo pipefail

packages=(
  # build tools
  g++ cmake ninja-build pkg-config python3
  # libraries of the program
  libopenmpi-dev openmpi-bin libhdf5-openmpi-dev libnetcdf-mpi-dev libnetcdf-c++4-dev petsc-dev
  libcli11-dev libyaml-cpp-dev nlohmann-json3-dev libfmt-dev libssl-dev libdnnl-dev
  # tests
  libgtest-dev
  # plots, and the field's own tools, with which the products are checked
  python3-xarray python3-netcdf4 python3-matplotlib python3-cartopy python-cartopy-data
  cdo nco netcdf-bin gdal-bin
)
if [ "${1:-}" = --tests ]; then
  # the same network in PyTorch as an oracle, with an optimised BLAS to be timed with
  packages+=(python3-torch python3-yaml libopenblas0-pthread)
  # a SLURM of two nodes for the job scripts, which the tests start and stop themselves
  packages+=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge iproute2)
fi

if ! command -v dpkg-query >/dev/null; then
  echo "This system has no Debian packages; install the equivalents of: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing ${missing[*]}"
run=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Packages are missing (${missing[*]}). Ask an administrator for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  run=(sudo)
fi
"${run[@]}" apt-get update -qq
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
