# Sourced. find_python MODULE...: sets `python` to one that has all of them, or says so and fails. Debian's packages are
# not seen by another Python that stands first on the path.
find_python() {
  local modules
  modules=$(IFS=,; echo "$*")
  for python in python3 /usr/bin/python3; do "$python" -c "import $modules" 2>/dev/null && return 0; done
  echo "skipped: no Python with $modules"
  return 1
}
