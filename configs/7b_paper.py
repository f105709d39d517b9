"""R1-VL-7B, second stage, with the batch size of the paper: 4 prompts and 16 completions per update.

    python -m r1vl_jax.train --config=configs/7b_paper.py

Weights: `config.model.path`, which configs/7b_warmup.py and the export command there write.
Data: the published 10,000 records of Mulberry-260k with key steps, in the directory `config.data.source`; the run
prepares them (docs/data.md). With a network (not verified here), and the pictures unpacked there, where the paths of
the JSON begin:

    hf download jingyiZ00/R1-VL-10K --repo-type dataset --local-dir data/r1vl

`--config.data.test_size=500` holds records out, to be evaluated before and after.
Hardware: the paper's is 4 x H100 80 GB. Time: not yet measured.
Expected, of both stages together: in the paper MathVista 58.2 -> 63.5, mean of eight benchmarks 53.3 -> 57.1;
here not yet measured.

An update has 16 rows, which can be sharded over at most 16 chips; configs/7b.py has the 16 prompts of the released
script.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/7b_paper"
    config.train.stages = ("step_grpo",)

    config.model.path = "runs/7b_warmup/export"
    config.model.preset = "7b"
    config.model.dtype = "bfloat16"
    config.data.source = "data/r1vl"
    config.data.min_pixels = 56 * 56  # of the published image processor
    config.data.max_pixels = 400_000

    config.train.prompts_per_update = 4
    config.train.max_steps = 13_125
    config.train.save_steps = 500
    config.sampling.num_generations = 4
    config.sampling.temperature = 1.2
    config.sampling.max_completion_length = 1024
    config.reward.alpha = 0.1
    config.loss.beta = 0.04
    config.loss.logp_chunk_size = 512
    config.optim.learning_rate = 1e-6
    config.optim.lr_scheduler_type = "linear"
    config.optim.weight_decay = 0.0
    config.optim.max_grad_norm = 1.0
    return config
