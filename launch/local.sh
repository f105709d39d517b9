#!/usr/bin/env bash
# Trains on this machine: with all of its devices in one process, or in several processes with one GPU each.
#
#   launch/local.sh configs/tiny.py [--config.SECTION.KEY=VALUE ...]
#   launch/local.sh --processes=4 configs/7b.py --config.workdir=RUN       # four GPUs of this machine
#   JAX_NUM_CPU_DEVICES=4 launch/local.sh --processes=2 configs/tiny.py    # two processes of four virtual CPU devices
#
# Uses the active environment, or .venv here. On GPUs XLA takes 0.92 of the memory (XLA_PYTHON_CLIENT_MEM_FRACTION), on
# CPU glibc takes huge pages (GLIBC_TUNABLES). A run that was interrupted resumes when it is started again.
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
[[ -n ${VIRTUAL_ENV:-} ]] || PATH="$(dirname "$0")/../.venv/bin:$PATH"
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" # JAX's default is 0.75
train=(env GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}" python -m r1vl_jax.train --config="$1" "${@:2}")
[[ $processes -gt 1 ]] || exec "${train[@]}"

export JAX_COORDINATOR_ADDRESS=localhost:${PORT:-$((20000 + RANDOM % 10000))} JAX_NUM_PROCESSES=$processes
children=()
trap 'kill "${children[@]}" 2>/dev/null || true; was_interrupted=1' INT TERM
for ((process = 0; process < processes; process++)); do
  JAX_PROCESS_ID=$process JAX_LOCAL_DEVICE_IDS=$process "${train[@]}" &
  children+=($!)
done
status=0 # of the first process that failed, in their order
for child in "${children[@]}"; do
  while ended=0 was_interrupted=0; wait "$child" || ended=$?; ((was_interrupted)); do :; done
  status=$((status ? status : ended))
done
exit "$status"
