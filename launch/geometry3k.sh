#!/usr/bin/env bash
# StepGRPO with LoRA on geometry3k from Qwen2-VL-2B-Instruct, both by their names on the hub, then accuracy on its test
# split. Needs a network, and a TPU chip or GPU with 16 GiB. Not verified: written where there was neither.
#
#   launch/geometry3k.sh WORKDIR [--config.SECTION.KEY=VALUE ...]
#
# The model has seen no reasoning path, so the prompt names the format; its accuracy at the start is evaluated, too.
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
  echo "usage: $0 WORKDIR [--config.SECTION.KEY=VALUE ...]" >&2
  exit 2
fi
data=hiyouga/geometry3k
format='Answer in these sections, each under its heading: "### Image Description:", "### Rationales:",
"### Let'\''s think step by step." with "### Step 1:", "### Step 2:" and so on, one calculation each, and
"### The final answer is:" with the answer alone.'
"$(dirname "$0")/local.sh" configs/2b_lora.py --config.workdir="$1" --config.data.source="$data" \
  --config.model.adapter_path= --config.data.instruction="$format" --config.eval.num_problems=200 "${@:2}"
exec python -m r1vl_jax.evaluate --run="$1" --data="$data" --split=test --out="$1/geometry3k"
