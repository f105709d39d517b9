#!/usr/bin/env bash
# Trains on all VMs of a TPU pod slice, from your own machine; gcloud is logged in there.
#
#   TPU=my-v5e-16 ZONE=us-west4-a launch/tpu_pod.sh configs/7b.py --config.workdir=/shared/RUN [--config.KEY=VALUE ...]
#
# Every VM has this repository in ~/r1vl_jax. Restarts the run, at most MAX_RESTARTS times (20), when a process or a VM
# may have been lost; it resumes from its newest checkpoint. A run that fails while the TPU is ready is not restarted.
set -euo pipefail

if [[ $# -lt 1 || $1 == -* || -z ${TPU:-} || -z ${ZONE:-} ]]; then
  echo "usage: TPU=NAME ZONE=ZONE $0 CONFIG --config.workdir=/shared/RUN [--config.SECTION.KEY=VALUE ...]" >&2
  exit 2
fi
if [[ ! ${MAX_RESTARTS:=20} =~ ^[0-9]+$ ]]; then
  echo "MAX_RESTARTS=$MAX_RESTARTS: expected a whole number, at least 0" >&2
  exit 2
fi
command="r1vl_jax/launch/tpu_vm.sh $(printf '%q ' "$@")"
for ((restart = 0; restart <= MAX_RESTARTS; restart++)); do
  status=0
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command" || status=$?
  case $status in
    0) exit 0 ;;
    134 | 137 | 143 | 255) ;; # another process was lost; SIGKILL; SIGTERM; no connection
    *)
      state=$(gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format="value(state)") || state=unknown
      [[ $state != READY ]] || exit "$status"
      ;;
  esac
  sleep "${SECONDS_BEFORE_RESTART:-60}"
done
exit "$status"
