#!/usr/bin/env bash
# Trains on this machine with the devices it has.
#
#   launch/local.sh configs/tiny.py [--config.SECTION.KEY=VALUE ...]
#
# Uses the active environment, or .venv of this repository if none is active. Run again, it resumes.
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
  echo "usage: $0 CONFIG [--config.SECTION.KEY=VALUE ...]" >&2
  exit 2
fi
config=$1
shift

if [[ -z ${VIRTUAL_ENV:-} ]]; then
  environment="$(dirname "$0")/../.venv/bin"
  PATH="$environment:$PATH"
fi
exec python -m r1vl_jax.train --config="$config" "$@"
