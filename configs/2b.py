"""R1-VL-2B, second stage: StepGRPO from the `warmup` checkpoint, which is also the reference (settings of the paper).

    python -m r1vl_jax.train --config=configs/2b.py

Weights: `config.model.path`, which configs/2b_warmup.py and the export command there write.
Data: the published 10,000 records of Mulberry-260k with key steps, in the directory `config.data.source`; the run
prepares them (docs/data.md). With a network (not verified here), and the pictures unpacked there, where the paths of
the JSON begin:

    hf download jingyiZ00/R1-VL-10K --repo-type dataset --local-dir data/r1vl

`--config.data.test_size=500` holds records out, to be evaluated before and after.
Hardware: the paper's is 4 x H100 80 GB. Time: not yet measured.
Expected, of both stages together: in the paper MathVista 43.0 -> 52.1, mean of eight benchmarks 41.2 -> 45.8;
here not yet measured.

Alternatives: the paper has 4 prompts per update (`--config.train.prompts_per_update=4`); 16 are those of the released
7B script, so that an update has 64 rows to shard over a pod. With 16, the run samples four times as many prompts as in
the paper; with `--config.train.max_steps=3281` as many. The released trainer in fact samples at temperature 1.0 and
top-k 50 (`--config.sampling.temperature=1.0 --config.sampling.top_k=50`), and for 2B limits prompt and completion
together to 1,024 tokens.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/2b"
    config.train.stages = ("step_grpo",)

    config.model.path = "runs/2b_warmup/export"
    config.model.preset = "2b"
    config.model.dtype = "bfloat16"
    config.data.source = "data/r1vl"
    config.data.min_pixels = 56 * 56  # of the published image processor
    config.data.max_pixels = 400_000

    config.train.prompts_per_update = 16
    config.train.max_steps = 13_125
    config.train.save_steps = 500
    config.sampling.num_generations = 4
    config.sampling.temperature = 1.2
    config.sampling.max_completion_length = 1024
    config.reward.alpha = 0.1
    config.loss.beta = 0.04
    config.optim.learning_rate = 1e-6
    config.optim.lr_scheduler_type = "linear"
    config.optim.weight_decay = 0.0
    config.optim.max_grad_norm = 1.0
    return config
