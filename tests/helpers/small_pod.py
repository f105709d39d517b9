"""A configuration whose programs compile in seconds: the smallest model, 4 short prompts, 2 completions of each."""

from r1vl_jax.config import default


def get_config():
    config = default()
    config.workdir = "runs/small_pod"
    config.train.stages = ("step_grpo",)
    config.model.dtype = "bfloat16"
    config.data.max_prompt_length = config.data.prompt_bucket = config.data.patch_bucket = 64
    config.data.max_pixels = 4 * 28 * 28
    config.train.prompts_per_update = config.eval.batch_size = 4
    config.sampling.num_generations = 2
    config.sampling.max_completion_length = 32
    config.mesh.data, config.mesh.fsdp = 1, -1
    return config
