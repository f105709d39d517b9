#!/usr/bin/env bash
# Trains on this TPU VM, with all of its chips.
#
#   launch/tpu_vm.sh configs/7b.py --config.workdir=/shared/RUN [--config.SECTION.KEY=VALUE ...]
#
# Installs the package into .venv of this repository if it is missing; PYTHON names an interpreter of 3.11 or newer.
# Start it in tmux, or from the VM's startup script: then the run resumes by itself when a preempted VM comes back.
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
  echo "usage: $0 CONFIG --config.workdir=/shared/RUN [--config.SECTION.KEY=VALUE ...]" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
if ! .venv/bin/python -c "import r1vl_jax.train, libtpu" 2>/dev/null; then
  "${PYTHON:-python3}" -m venv .venv
  .venv/bin/pip install --quiet --editable ".[tpu]"
fi
exec .venv/bin/python -m r1vl_jax.train --config="$1" "${@:2}"
