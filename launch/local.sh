#!/usr/bin/env bash
# Trains on this machine with the devices it has, in one process or, sharing them, in several.
#
#   launch/local.sh [--processes=N] configs/tiny.py [--config.SECTION.KEY=VALUE ...]
#
# Several processes take a GPU each, or JAX_NUM_CPU_DEVICES virtual devices; the ways of a pod, tried at home.
# Uses the active environment or .venv here, and memory in large pages (GLIBC_TUNABLES). Run again, it resumes.
set -euo pipefail

processes=1
if [[ ${1:-} == --processes=* ]]; then
  processes=${1#*=}
  shift
fi
if [[ $# -lt 1 || $1 == -* || ! $processes =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 [--processes=N] CONFIG [--config.SECTION.KEY=VALUE ...]" >&2
  exit 2
fi
train=(env GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}" python -m r1vl_jax.train --config="$1" "${@:2}")

if [[ -z ${VIRTUAL_ENV:-} ]]; then
  PATH="$(dirname "$0")/../.venv/bin:$PATH"
fi
if [[ $processes -eq 1 ]]; then
  exec "${train[@]}"
fi
export JAX_COORDINATOR_ADDRESS=localhost:${PORT:-$((20000 + RANDOM % 10000))} JAX_NUM_PROCESSES=$processes
children=()
trap 'kill "${children[@]}" 2>/dev/null || true; is_cut_short=1' INT TERM
for ((process = 0; process < processes; process++)); do
  JAX_PROCESS_ID=$process JAX_LOCAL_DEVICE_IDS=$process "${train[@]}" &
  children+=($!)
done
status=0 # of the first process that failed
for child in "${children[@]}"; do
  while ended=0 is_cut_short=0; wait "$child" || ended=$?; ((is_cut_short)); do :; done
  status=$((status ? status : ended))
done
exit "$status"
