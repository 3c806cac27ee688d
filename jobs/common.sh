# Sourced by the job scripts: where the program is, and how it is started on the ranks of the job.
#   PLUVIA         the program; default: pluvia on the PATH
#   PLUVIA_LAUNCH  how ranks are started; default: srun with PMIx. Each rank gets --cpus-per-task cores of its own, and
#                  one rank that fails ends the step: SLURM tells the others to stop and kills them its KillWait later
#                  (30 s unless the cluster has another).
set -euo pipefail
PLUVIA=${PLUVIA:-pluvia}
if ! command -v "$PLUVIA" >/dev/null; then
  echo "$PLUVIA is not to be found (PLUVIA names the program, and its folder must be seen by every node)" >&2
  exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "This is a SLURM job (submit it with sbatch; its first lines show how)" >&2
  exit 2
fi
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# shellcheck disable=SC2206  # several words are meant
on_all_ranks=(${PLUVIA_LAUNCH:-srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=cores --cpus-per-task=$OMP_NUM_THREADS} "$PLUVIA")
launch() { "${on_all_ranks[@]}" "$@"; }
