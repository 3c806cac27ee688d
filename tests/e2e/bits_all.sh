#!/usr/bin/env bash
# labels: full bits
# The proof of bits.sh on every grid, process grid and thread count.
exec bash "$(dirname "$0")/bits.sh" --all
