#!/usr/bin/env bash
# All results of docs/results/gpu.md on one GPU with 141 GB: kernels, programs of 2B, of 7B with LoRA, decoding of 7B,
# and a short run of all stages.
#
#   [PROGRAMS=decode,update] [REPEATS=5] [LIMIT=1800] benchmarks/gpu.sh DIRECTORY
#
# DIRECTORY receives the results as JSON and Markdown, and the run. Weights are random. LIMIT is the timeout of a part in
# seconds; the exit status is that of the last part that failed.
set -uo pipefail
if [[ $# -ne 1 || $1 == -* ]]; then
  echo "usage: $0 DIRECTORY" >&2
  exit 2
fi
mkdir -p "$1" && out=$(realpath "$1") && cd "$(dirname "$0")/.." || exit 2
status=0
part() {
  echo "== $*" >&2
  timeout "${LIMIT:-1800}" "$@" || status=$?
}
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
programs=(--programs="${PROGRAMS:-prefill,decode,reference_logps,update}" --repeats="${REPEATS:-5}")
programs+=(--config.model.path= --config.model.remat=dots --config.data.vision_shards=16)
programs+=(--config.loss.logp_chunk_size=4096)

part python3 -m benchmarks.gpu_kernels
part python3 -m benchmarks.programs --config=configs/2b.py --json="$out/2b.json" --markdown="$out/2b.md" "${programs[@]}" \
  --config.train.micro_batches=4 --config.model.scan_layers=False
part python3 -m benchmarks.programs --config=configs/7b.py --json="$out/7b_lora.json" \
  --markdown="$out/7b_lora.md" "${programs[@]}" \
  --config.train.micro_batches=8 --config.model.lora_r=64
part python3 -m benchmarks.programs --config=configs/7b.py --json="$out/7b.json" \
  --markdown="$out/7b.md" "${programs[@]}" --programs=decode
part python3 -m r1vl_jax.train --config=configs/tiny.py --config.workdir="$out/tiny" --config.model.dtype=bfloat16 \
  --config.{vision_pretrain,warmup,train}.max_steps=3 --config.data.{train,warmup,vision_pretrain,eval}_records=256 \
  --config.eval.{num_problems,batch_size}=32 --config.eval.{steps,supervised_steps}=0
exit "$status"
