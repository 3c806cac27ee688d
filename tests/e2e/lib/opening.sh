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
