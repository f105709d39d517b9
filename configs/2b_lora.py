"""Qwen2-VL-2B with LoRA adapters, on one chip or GPU with 16 GiB: supervised warm-up, then StepGRPO from its adapter.

    python -m r1vl_jax.train --config=configs/2b_lora.py

Both stages are one run; the reference is the policy after the warm-up. On a machine with more memory raise
`config.train.prompts_per_update`.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/2b_lora"
    config.train.stages = ("step_grpo",)

    config.model.path = "Qwen/Qwen2-VL-2B-Instruct"
    config.model.preset = "2b"
    config.model.dtype = "bfloat16"
    config.model.lora_r = 16
    config.model.lora_alpha = 32.0
    config.model.lora_target_modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    config.data.source = "data/r1vl"
    config.data.min_pixels = 56 * 56  # of the published image processor
    config.data.max_pixels = 400_000

    config.train.prompts_per_update = 4
    config.train.max_steps = 1_000
    config.train.save_steps = 100
    config.sampling.num_generations = 4
    config.sampling.temperature = 1.0
    config.sampling.max_completion_length = 512
    config.reward.alpha = 0.1
    config.loss.beta = 0.04
    config.loss.logp_chunk_size = 512
    config.optim.learning_rate = 1e-5
    config.eval.batch_size = 8
    return config
