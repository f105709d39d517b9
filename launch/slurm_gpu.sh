#!/usr/bin/env bash
# Trains on GPU nodes under SLURM: one process per node, with all GPUs of the node. Without SLURM: launch/local.sh.
#
#   sbatch --nodes=2 launch/slurm_gpu.sh configs/7b.py --config.workdir=/shared/RUN [--config.SECTION.KEY=VALUE ...]
#
# Submit from the root of this repository with the environment active. XLA takes 0.92 of the GPUs' memory
# (XLA_PYTHON_CLIENT_MEM_FRACTION). A preempted job is requeued and resumes.
#SBATCH --job-name=r1vl_jax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
  echo "usage: sbatch --nodes=N $0 CONFIG --config.workdir=/shared/RUN [--config.SECTION.KEY=VALUE ...]" >&2
  exit 2
fi
# Under SLURM JAX gives each process one GPU by default.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${SLURM_GPUS_ON_NODE:-8} - 1)))
export JAX_LOCAL_DEVICE_IDS
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" # JAX's default is 0.75
exec srun --kill-on-bad-exit=1 python -m r1vl_jax.train --config="$1" "${@:2}"
