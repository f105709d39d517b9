#!/usr/bin/env bash
# Trains on several TPU slices of a GKE cluster, through xpk.
#
#   CLUSTER=my-cluster NAME=r1vl-7b TPU_TYPE=v6e-64 SLICES=2 IMAGE=REGISTRY/r1vl_jax:latest \
#     launch/gke_slices.sh configs/7b.py --config.workdir=/shared/RUN [--config.SECTION.KEY=VALUE ...]
#
# The image holds this package with the extra [tpu], and configs/ in its working directory. When a VM fails or is
# preempted, xpk restarts all slices, at most MAX_RESTARTS times (20), and the run resumes. It does not restart a run
# that failed with status 1.
set -euo pipefail

if [[ $# -lt 1 || $1 == -* || -z ${CLUSTER:-} || -z ${NAME:-} || -z ${TPU_TYPE:-} || -z ${IMAGE:-} ]]; then
  echo "usage: CLUSTER= NAME= TPU_TYPE= SLICES= IMAGE= $0 CONFIG --config.workdir=/shared/RUN [...]" >&2
  exit 2
fi
: "${SLICES:=2}" "${MAX_RESTARTS:=20}"
if [[ ! $SLICES =~ ^[1-9][0-9]*$ || ! $MAX_RESTARTS =~ ^[0-9]+$ ]]; then
  echo "SLICES=$SLICES MAX_RESTARTS=$MAX_RESTARTS: expected whole numbers, at least 1 and 0" >&2
  exit 2
fi
exec xpk workload create \
  --cluster="$CLUSTER" \
  --workload="$NAME" \
  --tpu-type="$TPU_TYPE" \
  --num-slices="$SLICES" \
  --docker-image="$IMAGE" \
  --max-restarts="$MAX_RESTARTS" \
  --command="python -m r1vl_jax.train $(printf '%q ' --config="$1" "${@:2}")"
