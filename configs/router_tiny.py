"""R1-Router on the embedded task: handwritten numbers, and a code book, tables and signs to look things up in.

    python -m r1vl_jax.router.digits.task --out=runs/router_task
    python -m r1vl_jax.train --config=configs/router_tiny.py
    python -m r1vl_jax.router.evaluate --run=runs/router_tiny --questions=runs/router_task/questions/test.jsonl \
        --bases=runs/router_task/bases --out=runs/router_tiny/router --prompts=short --num_shown=3 --baselines=all

The warm-up imitates whole searches whose retriever is the code book's out of habit, with probability 0.7, wherever it
should be another. StepGRPO then rewards each step by itself: which sub-question, which retriever, which answer.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/router_tiny"
    config.model.remat = "none"

    config.train.stages = ("vision_pretrain", "warmup", "step_grpo")
    config.data.source = "runs/router_task/records"
    config.data.max_prompt_length = 104
    config.data.prompt_bucket = 104
    config.data.vision_shards = 8
    config.data.patch_bucket = 64

    config.vision_pretrain.max_steps = 100
    config.vision_pretrain.batch_size = 48
    config.vision_pretrain.optim.learning_rate = 2e-3
    config.vision_pretrain.optim.lr_scheduler_type = "constant"
    config.vision_pretrain.optim.adam_b2 = 0.98

    config.warmup.max_steps = 1_000
    config.warmup.batch_size = 48
    config.warmup.optim.learning_rate = 2e-3
    config.warmup.optim.adam_b2 = 0.98
    config.warmup.optim.warmup_ratio = 0.05

    config.reward.reward_weights = (0.0, 0.0)
    config.reward.functions = ("r1vl_jax.router.rewards:step_reward",)
    config.reward.function_weights = (1.0,)

    config.train.prompts_per_update = 32
    config.train.max_steps = 60
    config.train.completion_bucket = 16
    config.sampling.num_generations = 8
    config.sampling.temperature = 1.0
    config.sampling.max_completion_length = 48
    config.loss.loss_type = "bnpo"
    config.loss.beta = 0.0
    config.loss.report_kl = True
    config.optim.learning_rate = 1e-4
    config.optim.lr_scheduler_type = "constant"

    config.eval.num_problems = 400
    config.eval.steps = 20
    config.eval.batch_size = 200
    return config
