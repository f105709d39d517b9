#!/usr/bin/env bash
# Every figure of one GPU with 80 GiB or more: kernels, the programs of 2B and 7B (LoRA), a short run of all stages.
#
#   benchmarks/gpu.sh DIRECTORY    # which receives the figures as JSON, and the run
#
# Nothing is read: weights are random. The status is that of the last part that failed.
set -uo pipefail
out=${1:?"usage: $0 DIRECTORY"}
mkdir -p "$out"
status=0
part() {
  echo "== $*" >&2
  timeout "${LIMIT:-1800}" "$@" || status=$?
}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
settings=(--config.model.path= --config.model.remat=dots --config.data.vision_shards=16 --config.loss.logp_chunk_size=4096)
programs=${PROGRAMS:-prefill,decode,reference scores,update}

part python3 -m benchmarks.kernels
part python3 -m benchmarks.programs --config=configs/2b.py --programs="$programs" --json="$out/2b.json" \
  --repeats="${REPEATS:-5}" "${settings[@]}" --config.train.micro_batches=4 --config.model.scan_layers=False
part python3 -m benchmarks.programs --config=configs/7b.py --programs="$programs" --json="$out/7b.json" \
  --repeats="${REPEATS:-5}" "${settings[@]}" --config.train.micro_batches=8 --config.model.lora_r=64
part python3 -m r1vl_jax.train --config=configs/tiny.py --config.workdir="$out/tiny" --config.model.dtype=bfloat16 \
  --config.train.max_steps=3 --config.alignment.max_steps=2 --config.warmup.max_steps=2 \
  --config.data.{train,warmup,alignment,eval}_records=256 --config.eval.{num_problems,batch_size}=32 \
  --config.eval.{steps,supervised_steps}=0
exit "$status"
