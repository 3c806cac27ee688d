#!/usr/bin/env bash
# A rank that is killed ends the whole job within seconds and is named; a disk that fills up while a checkpoint is
# written ends it with one message and leaves the checkpoint before as it was; and training goes on from there to the
# same bytes. Nor does a forecast onto a full disk wait for ever. Needs PLUVIA and MPIEXEC, as ctest sets them; Python
# with netCDF4; for small disks the right to mount them.
source "$(dirname "$0")/lib/opening.sh"
source "$here/lib/kill_rank.sh"
find_python netCDF4 numpy || exit 77
small_archive 37 42
options=(train.exact=true parallel.block=8 train.precision=f32 train.steps=12 train.validate_every=6 train.checkpoint_every=3)
train() { run "$1" train deck.yaml "${options[@]}" "${@:2}" >/dev/null 2>err; }
same() { for name in 00000012 best; do "$python" "$here/compare_checkpoints.py" "straight/checkpoint_$name.h5" "$1/checkpoint_$name.h5"; done; }
train 3 train.output=straight || { cat err; exit 1; }

# SIGKILL to one rank, some time after the first step.
train 3 train.output=killed &
job=$!
wait_for_step killed/log.jsonl 1
sleep "0.$((RANDOM % 4))"
victim=$((RANDOM % 3))
start=$SECONDS
kill_rank "$victim" "train.output=killed"
status=0
wait "$job" || status=$?
echo "rank $victim killed: status $status after $((SECONDS - start)) s"
[ "$status" -ne 0 ] && [ $((SECONDS - start)) -lt 10 ] && grep -q "rank $victim .*signal 9" err || { cat err; exit 1; }
! pgrep -f "^$PLUVIA .*train.output=killed" >/dev/null || { echo "a rank is left alive"; exit 1; }
train 3 train.output=killed train.from=latest || { cat err; exit 1; }
same killed

# No file may grow beyond a part of a checkpoint, as if the disk were full.
mkdir full && cp straight/checkpoint_00000009.h5 full/
cat >cramped <<END
#!/bin/bash
trap '' XFSZ
ulimit -f $(($(stat -c %s straight/checkpoint_00000009.h5) / 2048))
exec "$PLUVIA" "\$@"
END
chmod +x cramped
start=$SECONDS
status=0
PLUVIA=./cramped train 2 train.output=full train.from=latest || status=$?
echo "disk full: status $status after $((SECONDS - start)) s"
[ "$status" -eq 1 ] && [ "$(grep -c 'pluvia: ' err)" -eq 1 ] && grep -q 'pluvia: No room to write' err || { cat err; exit 1; }
[ "$(cd full && echo *)" = "checkpoint_00000009.h5 config.yaml log.jsonl" ] || { ls full; exit 1; }
cmp straight/checkpoint_00000009.h5 full/checkpoint_00000009.h5
train 2 train.output=full train.from=latest || { cat err; exit 1; }
same full

# A disk of one checkpoint and a half whose file system neither tells nor reserves what is left, so that HDF5 finds out:
# on one rank, for on several the others may wait inside Open MPI's collective write.
mkdir disk
if ! mount -t tmpfs -o size=$(($(stat -c %s straight/checkpoint_00000009.h5) * 3 / 2)) none disk 2>/dev/null; then
  echo "not tested: disks that are full (none can be mounted)"
  exit 0
fi
trap 'cd / && umount "$folder/disk"; rm -rf "$folder"' EXIT
refused() { # PATTERN RANKS ARGUMENTS...: with one message and status 1, in under 10 s
  local status=0 start=$SECONDS
  timeout 60 "$MPIEXEC" --oversubscribe --bind-to none -np "$2" "$PLUVIA" "${@:3}" >/dev/null 2>err || status=$?
  echo "$3 onto a full disk: status $status after $((SECONDS - start)) s: $(grep 'pluvia: ' err)"
  [ "$status" -eq 1 ] && [ $((SECONDS - start)) -lt 10 ] && [ "$(grep -c 'pluvia: ' err)" -eq 1 ] && grep -q "pluvia: $1" err ||
    { cat err; exit 1; }
}
mkdir disk/run && cp straight/checkpoint_00000009.h5 disk/run/
"${CXX:-c++}" -shared -fPIC -o silent.so -x c++ - <<'END'
#include <cerrno>
extern "C" int statvfs(const char*, void*) { return errno = ENOSYS, -1; }
extern "C" int fallocate(int, int, long, long) { return errno = EOPNOTSUPP, -1; }
END
ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0 LD_PRELOAD=$folder/silent.so refused 'Cannot write .* to disk/run/checkpoint_00000012.h5.part' 1 \
  train deck.yaml "${options[@]}" train.output=disk/run train.from=latest
[ "$(cd disk/run && echo *)" = "checkpoint_00000009.h5 config.yaml log.jsonl" ] || { ls disk/run; exit 1; }
cmp straight/checkpoint_00000009.h5 disk/run/checkpoint_00000009.h5

# A forecast that no byte is left for.
head -c 1G /dev/zero >disk/rest 2>/dev/null || true
refused 'No room to write disk/pluvia_pop' 3 forecast deck.yaml train.output=straight forecast.output=disk
[ "$(cd disk && echo *)" = "rest run" ] || { ls disk; exit 1; }
