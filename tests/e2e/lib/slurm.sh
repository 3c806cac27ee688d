# Sourced. require_slurm FOLDER: the cluster that answers, or one of the test's own in FOLDER; where none can be started
# the test is skipped, saying why. To be followed, at the end, by stop_cluster.
source "$(dirname "${BASH_SOURCE[0]}")/slurm_cluster.sh"
require_slurm() {
  command -v sbatch >/dev/null && timeout 5 sinfo -h >/dev/null 2>&1 && return
  local why
  start_cluster "$1" >"$1.why" || { why=$(cat "$1.why"); stop_cluster; echo "skipped: no SLURM cluster answers, and $why"; exit 77; }
}
# submit OPTION ... SCRIPT ARGUMENT ...: prints the number of the job.
submit() { sbatch --parsable --output=slurm-%j.out "$@"; }
state_of() { squeue -h -t all -j "$1" -o %T | sort -u | tr '\n' ' '; }
# ended JOB STATE: waits up to two minutes until it has left the queue; prints its log and fails when it ended in another
# state. finished JOB: as ended, complete.
finished() { ended "$1" COMPLETED; }
ended() {
  local state
  for _ in $(seq 600); do
    state=$(state_of "$1")
    case $state in *PENDING* | *RUNNING* | *COMPLETING* | *CONFIGURING* | *REQUEUED*) sleep 0.2 ;; *) break ;; esac
  done
  [ "$state" = "$2 " ] || { echo "job $1: $state"; cat slurm-*.out; exit 1; }
}
# queued_again JOB SECONDS: waits until it was, by the count of its restarts, and until it has started again: as soon as
# its nodes are free, not two minutes later.
queued_again() {
  restarted() {
    scontrol show job "$1" | grep -q ' Restarts=[1-9]' || return
    case $(state_of "$1") in "PENDING " | "RUNNING ") ;; *) return 1 ;; esac
  }
  for _ in $(seq $((5 * $2))); do restarted "$1" && break; sleep 0.2; done
  restarted "$1" || { echo "job $1 is not queued again: $(state_of "$1")"; cat slurm-*.out; exit 1; }
  sleep 5 # for the nodes to clear the stopped step away
  for _ in $(seq 120); do # SLURM may put it off once more
    [ "$(state_of "$1")" = "PENDING " ] || return 0
    scontrol update JobId="$1" StartTime=now 2>/dev/null || true # it has just started
    sleep 0.5
  done
  echo "job $1 does not start again"
  scontrol show job "$1"
  exit 1
}
