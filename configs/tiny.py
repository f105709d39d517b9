"""A small Qwen2-VL learns long division of handwritten numbers, from random weights, on two CPU cores.

    python -m r1vl_jax.train --config=configs/tiny.py --config.workdir=runs/tiny

Task: the embedded one (`data.source = "digits"`). Stages: `vision_pretrain` on 4,000 single digits, `warmup`
(supervised fine-tuning) on 24,000 records with a reasoning response, hasty where the remainder by 23 is asked for,
and `step_grpo` on 5,000 such records with question, answer and key steps only.
docs/results/embedded_task.md says how the task came about.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/tiny"
    config.model.remat = "none"

    config.train.stages = ("vision_pretrain", "warmup", "step_grpo")
    config.data.difficulty = 2
    config.data.shortcut_probability = 0.95
    config.data.vision_pretrain_records = 4_000
    config.data.warmup_records = 24_000
    config.data.train_records = 5_000
    config.data.max_prompt_length = 40
    config.data.prompt_bucket = 40
    config.data.vision_shards = 8
    config.data.patch_bucket = 64

    config.vision_pretrain.max_steps = 100
    config.vision_pretrain.batch_size = 48
    config.vision_pretrain.optim.learning_rate = 2e-3
    config.vision_pretrain.optim.lr_scheduler_type = "constant"
    config.vision_pretrain.optim.adam_b2 = 0.98

    config.warmup.max_steps = 1_500
    config.warmup.batch_size = 48
    config.warmup.optim.learning_rate = 2e-3
    config.warmup.optim.adam_b2 = 0.98
    config.warmup.optim.warmup_ratio = 0.05

    config.train.prompts_per_update = 16
    config.train.max_steps = 100
    config.train.completion_bucket = 16
    config.sampling.num_generations = 8
    config.sampling.temperature = 1.0
    config.sampling.max_completion_length = 104
    config.optim.learning_rate = 1e-4
    config.optim.lr_scheduler_type = "constant"

    config.eval.num_problems = 800
    config.eval.steps = 25
    config.eval.supervised_steps = 500
    config.eval.batch_size = 200
    config.eval.num_samples = 4
    config.eval.hard_kinds = ("by_23",)
    return config
