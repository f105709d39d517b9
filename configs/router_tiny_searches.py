"""R1-Router on the embedded task, whole searches: the policy's own loop is sampled, and rewarded at its end.

    python -m r1vl_jax.router.digits.task --out=runs/router_task
    python -m r1vl_jax.train --config=configs/router_tiny.py
    python -m r1vl_jax.checkpoint.hf_export --run=runs/router_tiny --stage=warmup --out=runs/router_tiny_warmup
    python -m r1vl_jax.train --config=configs/router_tiny_searches.py

It starts from the warm-up of `router_tiny`, whose retriever is the code book's out of habit. No step has a gold here:
only whether the final answer is right says whether the look-ups were.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/router_tiny_searches"
    config.model.path = "runs/router_tiny_warmup"
    config.model.preset = "tiny"
    config.model.remat = "none"

    config.train.stages = ("step_grpo",)
    config.data.source = "runs/router_task/searches"
    config.data.max_prompt_length = 104
    config.data.prompt_bucket = 104
    config.data.vision_shards = 8
    config.data.patch_bucket = 64

    config.train.rollout_func = "r1vl_jax.router.rollouts:Searches"
    config.train.rollout_args = '{"bases": "runs/router_task/bases", "prompts": "short", "num_shown": 3}'
    config.reward.reward_weights = (0.0, 0.0)
    config.reward.functions = ("r1vl_jax.router.rewards:step_reward",)
    config.reward.function_weights = (1.0,)

    config.train.prompts_per_update = 16
    config.train.max_steps = 60
    config.train.tokens_per_micro_batch = 24_000
    config.train.completion_bucket = 16
    config.sampling.num_generations = 8
    config.sampling.temperature = 1.0
    config.sampling.max_completion_length = 48
    config.loss.loss_type = "bnpo"
    config.loss.beta = 0.0
    config.loss.report_kl = True
    config.optim.learning_rate = 1e-4
    config.optim.lr_scheduler_type = "constant"

    config.eval.num_problems = 0  # which would ask for one completion; router.evaluate runs the loop
    config.eval.steps = 0
    return config
