"""R1-VL-2B, first stage: supervised fine-tuning of Qwen2-VL-2B-Instruct on Mulberry-260k (settings of the paper).

    python -m r1vl_jax.train --config=configs/2b_warmup.py
    python -m r1vl_jax.checkpoint.hf_export --run=runs/2b_warmup --out=runs/2b_warmup/export --dtype=float32

The second command writes the checkpoint that configs/2b.py starts from.

Weights: `config.model.path`, a directory relative to the working directory or a name on the hub.
Data: Mulberry-260k as published, in the directory `config.data.source`. The run prepares it and leaves reflective
records out (docs/data.md). With a network (not verified here), and the pictures unpacked there, where the paths of the
JSON begin:

    hf download HuanjinYao/Mulberry-SFT --repo-type dataset --local-dir data/mulberry

`--config.data.test_size=1000` holds records out, to be evaluated before and after.
Hardware: the paper's is 4 x H100 80 GB. Time: not yet measured. Expected: not yet measured; the paper reports no 2B
result for this stage alone (MathVista is 43.0 before it and 52.1 after both).

Alternatives: the released configuration has learning rate 2e-5 and weight decay 0.05:
`--config.warmup.optim.learning_rate=2e-5 --config.warmup.optim.weight_decay=0.05`.
"""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/2b_warmup"
    config.train.stages = ("warmup",)
    config.train.save_steps = 500

    config.model.path = "Qwen/Qwen2-VL-2B-Instruct"
    config.model.preset = "2b"
    config.model.dtype = "bfloat16"
    config.data.source = "data/mulberry"
    config.data.min_pixels = 56 * 56  # of the published image processor
    config.data.max_pixels = 400_000

    config.warmup.max_steps = 4_062  # 2 epochs of 260,000 records
    config.warmup.batch_size = 128
    config.warmup.optim.learning_rate = 1e-5
    config.warmup.optim.lr_scheduler_type = "cosine"
    config.warmup.optim.warmup_ratio = 0.03
    return config
