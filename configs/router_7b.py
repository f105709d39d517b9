"""R1-Router on Qwen2.5-VL-7B: Step-GRPO, each step of a trajectory a prompt of its own (arXiv 2505.22095).

    python -m r1vl_jax.router.convert --input=data/r1_router/train.json --images=data/r1_router --out=data/router_steps
    python -m r1vl_jax.train --config=configs/router_7b.py

Weights: Qwen2.5-VL-7B-Instruct, no warm-up. Data: trajectories in the layout of the original (docs/router.md), or those
of a teacher. The rewards compare sub-questions by `hashing`; docs/router.md says how to take the original's embedder.
Settings are those of the original's training framework where the paper is silent: 512 prompts drawn and 128 an update,
tokens averaged over the batch; but the vision tower is frozen. Hardware: v5e-16 by the TPU's compiler, without a TPU
(15.5 of 15.75 GiB a chip in the update). Time and results: not yet measured; the paper reports more than 7 points of
F1-Recall over its baselines, on the average of six benchmarks.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/router_7b"
    config.train.stages = ("step_grpo",)

    config.model.path = "Qwen/Qwen2.5-VL-7B-Instruct"
    config.model.preset = "2.5-7b"
    config.model.dtype = "bfloat16"
    config.model.freeze_vision_tower = True  # 128 pictures an update: else v5e-16 lacks 2.6 GiB
    config.data.source = "data/router_steps"
    config.data.max_prompt_length = 2048
    config.data.max_pixels = 400_000

    config.train.prompts_per_update = 128
    config.train.max_steps = 100
    config.train.save_steps = 20
    config.train.tokens_per_micro_batch = 4_096
    config.sampling.num_generations = 5
    config.sampling.temperature = 1.0
    config.sampling.max_completion_length = 1024
    config.reward.reward_weights = (0.0, 0.0)
    config.reward.functions = ("r1vl_jax.router.rewards:step_reward",)
    config.reward.function_weights = (1.0,)
    config.loss.loss_type = "bnpo"
    config.loss.beta = 0.0
    config.loss.report_kl = True
    config.loss.epsilon = 0.2
    config.loss.steps_per_generation = 4
    config.loss.logp_chunk_size = 512
    config.optim.learning_rate = 1e-6
    config.optim.lr_scheduler_type = "constant"
    config.optim.weight_decay = 1e-2
    config.eval.num_problems = 0
    config.eval.steps = 0
    return config
