#!/usr/bin/env bash
# labels: full bits
# The proof of exact.sh over 50 steps on every process grid.
exec bash "$(dirname "$0")/exact.sh" --all
