# Sourced. wait_for_step FILE N: until log.jsonl has step N; fails after 60 s.
wait_for_step() {
  for _ in $(seq 600); do
    grep -qs "\"step\":$2," "$1" && return 0
    sleep 0.1
  done
  echo "no step $2 in $1"
  return 1
}
# kill_rank RANK WORDS: SIGKILL to the rank of the job whose command line holds WORDS.
kill_rank() {
  local process
  for process in $(pgrep -f "^$PLUVIA .*$2"); do
    grep -qz "^OMPI_COMM_WORLD_RANK=$1\$" "/proc/$process/environ" && kill -KILL "$process" && return 0
  done
  echo "no rank $1 of $2"
  return 1
}
