# Sourced first: `here` is the scripts' folder; the work is done in a `folder` of its own, which goes away with the script.
# Threads that wait leave the cores to others.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib/small_model.sh"
source "$here/lib/python.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export OMP_WAIT_POLICY=passive
# fails STATUS PATTERN COMMAND ...: it must end with that status and one message, in which grep -E finds the pattern.
fails() {
  local status=0
  "${@:3}" >failure 2>&1 || status=$?
  [ "$status" -eq "$1" ] && [ "$(grep -c '^pluvia: ' failure)" -eq 1 ] && grep -E -- "^pluvia: .*$2" failure ||
    { echo "status $status, not $1 and '$2', of ${*:3}"; cat failure; exit 1; }
}
