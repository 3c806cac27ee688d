#!/usr/bin/env bash
# Builds for NVIDIA GPUs and shows in one go, within ten minutes, what the program does on one: the tests of the
# operators, of the network and of recorded and timed steps on the accelerator, compute-sanitizer, and benchmarks beside
# PyTorch, with a forecast of a full disk.
#   tools/gpu_check.sh [OUT]               on a machine with a GPU and all that the build needs
#   tools/gpu_check.sh --pack FILE.tar.zst on a machine without: builds, and packs what a bare GPU machine lacks
#   (cd UNPACKED && bash gpu_check.sh --here [OUT])   there: needs CUDA's libraries, cuDNN and NCCL, and nothing else
# Leaves log.txt and *.json in OUT (gpu_check). Ends with status 1 when a test failed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tests=(accelerator_test arrival_test conv3d_test device_step_test gradient_sync_test network_timing_test operators_test
  parameter_shards_test st_unet_test)

build() {
  cmake --preset cuda -DPLUVIA_PETSC=OFF "$@"
  cmake --build --preset cuda --parallel "$(nproc)" --target pluvia "${tests[@]}"
}

# pack FILE: program, tests, configuration, reference and the shared libraries that are not CUDA's.
pack() {
  local folder file
  folder=$(mktemp -d)
  mkdir -p "$folder/bin" "$folder/lib"
  cp build/cuda/pluvia "$folder/bin/"
  for file in "${tests[@]}"; do cp "build/cuda/tests/$file" "$folder/bin/"; done
  cp -r tools/reference "$folder/"
  cp inputs/bench_reference.yaml tools/gpu_check.sh "$folder/"
  # Open MPI finds its components where they lay, relative to a prefix that may move (OPAL_PREFIX).
  local prefix components
  prefix=$(ompi_info --path prefix --parsable | sed 's/.*://')
  for file in pkglibdir pkgdatadir; do
    components=$(ompi_info --path $file --parsable | sed 's/.*://')
    mkdir -p "$(dirname "$folder/mpi/${components#"$prefix"/}")"
    cp -rL "$components" "$folder/mpi/${components#"$prefix"/}"
  done
  mkdir -p "$folder/mpi/bin"
  for file in orterun orted; do cp -L "$(command -v $file)" "$folder/mpi/bin/"; done
  find "$folder" -name '*.so' -o -path '*/bin/*' -type f | xargs ldd 2>/dev/null | awk '$3 ~ /^\// { print $3 }' | sort -u |
    grep -v -E '/(libc|libm|libdl|libpthread|librt|libresolv|libutil|libmvec|ld-linux[^/]*|libcuda|libcudart|libcublas|libcublasLt|libcudnn[^/]*|libnccl)\.so' |
    xargs -I{} cp -L {} "$folder/lib/"
  strip "$folder"/bin/* 2>/dev/null || true
  tar -C "$folder" -cf - . | zstd -q -19 -T0 -f -o "$1"
  rm -rf "$folder"
  ls -l "$1"
}

# Folders of cuDNN's and NCCL's libraries that came with Python's packages, where the system has none.
python_libraries() {
  python3 - <<'END' 2>/dev/null || true
import importlib.util
import pathlib
found = importlib.util.find_spec("nvidia")
for root in found.submodule_search_locations if found else []:
    print(":".join(str(p) for p in pathlib.Path(root).glob("*/lib")))
END
}

failed=0
# run NAME SECONDS COMMAND...: into the log, with how it ended.
run() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  { echo "== $name: $*"; timeout "$limit" "$@"; } >>"$out/log.txt" 2>&1 || status=$?
  echo "$name: status $status, $((SECONDS - start)) s" | tee -a "$out/log.txt"
  [ $status -eq 0 ] || failed=1
}

check() { # PROGRAMS TESTS CONFIG REFERENCE
  nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || { echo "no GPU answers to nvidia-smi" >&2; exit 1; }
  local ranks="mpirun --oversubscribe --bind-to none -np"
  for test in "${tests[@]}"; do run "$test, 1 rank" 120 "$2/$test" --gtest_filter='*ccelerator*:*StUnet*:*ParametersInShards*:Recording*'; done
  # Several ranks share the GPU: messages go through the host. With a GPU for each, from one to the other.
  local gpus counts=3
  gpus=$(nvidia-smi --list-gpus | wc -l)
  if [ "$gpus" -gt 1 ]; then counts="$gpus $((2 * gpus + 1))"; fi
  for count in $counts; do
    for test in gradient_sync_test operators_test parameter_shards_test st_unet_test; do
      run "$test, $count ranks on $gpus GPUs" 180 $ranks $count "$2/$test" \
        --gtest_filter='*ccelerator*:*StUnet*:*ParametersInShards*'
    done
  done
  if command -v compute-sanitizer >/dev/null; then
    # Memory comes from a pool in the order of work: memcheck can tell when it is used too early or too late.
    run memcheck 120 compute-sanitizer --tool memcheck --track-stream-ordered-races all --error-exitcode 9 \
      "$2/operators_test" --gtest_filter='*Accelerator*closed'
    run "memcheck of steps" 60 compute-sanitizer --tool memcheck --error-exitcode 9 "$2/device_step_test"
    run racecheck 90 compute-sanitizer --tool racecheck --error-exitcode 9 "$2/operators_test" \
      --gtest_filter='*Accelerator*closed'
  else
    echo "compute-sanitizer: not on this machine" | tee -a "$out/log.txt"
  fi
  for cells in 128 512 1024; do
    run "bench $cells" 60 "$1/pluvia" bench "$3" parallel.device=gpu bench.ny=$cells bench.nx=$cells bench.rounds=5 \
      bench.output="$out/bench_$cells.json"
  done
  # By slabs, from the host's memory: 5424 x 5424 cells need some 50 GB there.
  run "forecast of a full disk" 150 "$1/pluvia" bench "$3" parallel.device=gpu bench.ny=5424 bench.nx=5424 \
    bench.training=false bench.rounds=1 bench.output="$out/bench_full_disk.json"
  if python3 -c 'import torch' 2>/dev/null; then
    for how in "" --compile; do
      run "beside PyTorch $how" 120 python3 "$4/side_by_side.py" "$3" --pluvia "$1/pluvia" --device cuda --cells 512 512 \
        --rounds 3 $how -o "$out/side_by_side${how#-}.json"
    done
  else
    echo "PyTorch: not on this machine" | tee -a "$out/log.txt"
  fi
}

if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive
case ${1:-} in
--pack)
  cd "$here/.."
  build -DPLUVIA_ARCH=x86-64-v3 # the other machine's processor may lack what this one has
  pack "${2:?FILE.tar.zst}"
  ;;
--here)
  out=$(realpath -m "${2:-gpu_check}")
  mkdir -p "$out"
  : >"$out/log.txt"
  cd "$here"
  export OPAL_PREFIX=$here/mpi PATH=$here/mpi/bin:$PATH
  export LD_LIBRARY_PATH=$here/lib:$(python_libraries):${LD_LIBRARY_PATH:-}
  ln -sf orterun mpi/bin/mpirun
  check bin bin bench_reference.yaml reference
  exit $failed
  ;;
*)
  out=$(realpath -m "${1:-gpu_check}")
  mkdir -p "$out"
  : >"$out/log.txt"
  cd "$here/.."
  build -DPLUVIA_ARCH=native >>"$out/log.txt" 2>&1 || { tail -n 40 "$out/log.txt"; exit 1; }
  check build/cuda build/cuda/tests inputs/bench_reference.yaml tools/reference
  exit $failed
  ;;
esac
