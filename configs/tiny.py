"""A small Qwen2-VL learns to read handwriting and to reason about it, from random weights, on two CPU cores.

    python -m r1vl_jax.train --config=configs/tiny.py --config.workdir=runs/tiny
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/tiny"

    config.data.max_prompt_length = 48
    config.data.prompt_bucket = 48
    config.data.warmup_records = 4_000
    config.data.train_records = 20_000

    config.warmup.max_steps = 400
    config.warmup.batch_size = 64
    config.warmup.optim.learning_rate = 2e-3

    config.train.prompts_per_update = 16
    config.train.max_steps = 150
    config.sampling.num_generations = 8
    config.sampling.temperature = 1.0
    config.sampling.max_completion_length = 96
    config.optim.learning_rate = 3e-4
    config.loss.beta = 0.04
    return config
