"""Qwen2-VL-2B with LoRA, on one TPU chip or GPU with 16 GiB: both stages, from an adapter to an adapter.

    python -m r1vl_jax.train --config=configs/2b_lora.py --config.train.stages='("warmup",)' \
        --config.model.adapter_path= --config.data.source=data/mulberry --config.workdir=runs/2b_lora_warmup
    python -m r1vl_jax.checkpoint.hf_export --run=runs/2b_lora_warmup --out=runs/2b_lora_warmup/adapter --adapter
    python -m r1vl_jax.train --config=configs/2b_lora.py

The third command starts from the adapter of the first, which is also in the reference; the base stays as it is. Without
a warm-up: `--config.model.adapter_path=`.

Weights: `config.model.path`, a directory relative to the working directory or a name on the hub.
Data: as for configs/2b_warmup.py and configs/2b.py, which name the commands that fetch them.
Memory: at most 9.3 GiB, by the compiler for a TPU v5e (docs/results/aot.md). Time: there at least 9.6 s an update of
StepGRPO and 3.4 s one of the warm-up, by the same account; not yet measured. Expected: not yet measured.

Alternatives: on a GPU `--config.model.scan_layers=False` makes updates faster.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/2b_lora"
    config.train.stages = ("step_grpo",)

    config.model.path = "Qwen/Qwen2-VL-2B-Instruct"
    config.model.adapter_path = "runs/2b_lora_warmup/adapter"
    config.model.preset = "2b"
    config.model.dtype = "bfloat16"
    config.model.lora_r = 16
    config.model.lora_alpha = 32.0
    config.model.lora_target_modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    config.data.source = "data/r1vl"
    config.data.min_pixels = 56 * 56  # of the published image processor
    config.data.max_pixels = 400_000

    config.warmup.max_steps = 2_000
    config.warmup.batch_size = 32
    config.warmup.optim.learning_rate = 1e-4
    config.train.micro_batches = 4
    config.train.prompts_per_update = 8
    config.train.max_steps = 2_500
    config.train.save_steps = 100
    config.sampling.num_generations = 4
    config.sampling.temperature = 1.2
    config.sampling.max_completion_length = 1024
    config.reward.alpha = 0.1
    config.loss.beta = 0.04
    config.loss.logp_chunk_size = 512
    config.optim.learning_rate = 1e-5
    config.eval.batch_size = 8
    return config
