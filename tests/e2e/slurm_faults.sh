#!/usr/bin/env bash
# labels: full
# A training job on two nodes of which one is set down, or loses its network, in the middle: SLURM queues it again, and
# on a third node, or once that one is back, it goes on by itself from its last checkpoint and ends with the bytes of an
# undisturbed run.
# Where no cluster answers it starts one of its own, as root; else it skips. Needs PLUVIA and MPIEXEC, as ctest sets them,
# and the right to set nodes down; Python with netCDF4; a cluster that sees this file system. On another's cluster
# PLUVIA_CUT_NODE and PLUVIA_HEAL_NODE are commands that unplug the node they are given as argument and plug it in again;
# without them no network is cut there.
source "$(dirname "$0")/lib/opening.sh"
source "$here/lib/kill_rank.sh"
source "$here/lib/slurm.sh"
find_python netCDF4 numpy || exit 77
broken="" # the command that mends what is broken now
trap '$broken; stop_cluster; rm -rf "$folder"' EXIT
require_slurm "$folder/cluster"
cut=${PLUVIA_CUT_NODE:-} heal=${PLUVIA_HEAL_NODE:-}
if [ -n "${cluster:-}" ]; then cut=cluster_cut heal=cluster_heal; fi
nodes=$(sinfo -h -N -t idle -o %N | sort -u | wc -l)
[ "$nodes" -ge 2 ] || { echo "skipped: needs two idle nodes"; exit 77; }
export PLUVIA PLUVIA_JOBS=$here/../../jobs
small_archive 37 42
deck=(deck.yaml train.exact=true parallel.block=8 train.precision=f32 train.steps=60 train.validate_every=30 train.checkpoint_every=5)
run 2 train "${deck[@]}" train.output=straight >/dev/null 2>err || { cat err; exit 1; }

mend() { # NODE
  $broken
  broken=""
  for _ in $(seq 60); do
    [ "$(sinfo -h -n "$1" -o %T)" = idle ] && return
    set_up "$1"
    sleep 1
  done
  echo "node $1 does not come back"
  exit 1
}
# disturb NAME PLACE SECONDS BREAK MEND: submits a training, runs BREAK on the first or last of its nodes after some
# steps, waits at most SECONDS for it to be stopped, runs MEND, after the job's end when it has another node to go to, and
# checks what the training ends with.
disturb() {
  local name=$1 job node start
  job=$(submit --nodes=2 --ntasks=2 "$PLUVIA_JOBS/train.sbatch" "${deck[@]}" train.output="$name")
  wait_for_step "$name/log.jsonl" 12 || { cat slurm-*.out; exit 1; }
  node=$(scontrol show hostnames "$(squeue -h -j "$job" -o %N)" | "$2" -n 1)
  start=$SECONDS broken="$5 $node"
  $4 "$node"
  for _ in $(seq $((5 * $3))); do case $(state_of "$job") in RUNNING*) sleep 0.2 ;; *) break ;; esac done
  echo "$name: node $node lost, state $(state_of "$job")after $((SECONDS - start)) s"
  [ "$nodes" -gt 2 ] || mend "$node"
  queued_again "$job" 60
  finished "$job"
  [ "$nodes" -eq 2 ] || mend "$node"
  grep -q 'going on from' "slurm-$job.out" || { echo "not resumed:"; cat "slurm-$job.out"; exit 1; }
  for file in 00000060 best; do "$python" "$here/compare_checkpoints.py" "straight/checkpoint_$file.h5" "$name/checkpoint_$file.h5"; done
  echo "$name: the same bytes after $((SECONDS - start)) s"
}
set_down() { scontrol update NodeName="$1" State=DOWN Reason="a test of Pluvia"; }
set_up() { scontrol update NodeName="$1" State=RESUME 2>/dev/null || true; } # many clusters do so by themselves
disturb last_down tail 30 set_down set_up
disturb first_down head 30 set_down set_up
if [ -n "$cut" ] && [ -n "$heal" ]; then
  disturb last_cut tail 180 "$cut" "$heal"
  disturb first_cut head 180 "$cut" "$heal"
else
  echo "not tested: a cut network (PLUVIA_CUT_NODE and PLUVIA_HEAL_NODE are not set)"
fi
