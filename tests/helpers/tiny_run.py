"""The smallest whole run: both stages, two updates each, evaluations between them, on one device."""

from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from r1vl_jax.config import default
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training import components


def settings(workdir: Path, data_directory: Path) -> ConfigDict:
    """The run's configuration; the data are written once and shared."""
    config = default()
    config.workdir, config.data.directory = str(workdir), str(data_directory)
    config.data.difficulty = 1
    config.data.warmup_records, config.data.train_records, config.data.eval_records = 40, 40, 6
    config.data.max_prompt_length = config.data.prompt_bucket = 48
    config.warmup.max_steps, config.warmup.batch_size, config.warmup.optim.learning_rate = 2, 4, 1e-3
    config.train.max_steps, config.train.prompts_per_update, config.train.save_steps = 2, 2, 1
    config.optim.learning_rate = 1e-3
    config.sampling.num_generations, config.sampling.max_completion_length = 2, 64
    config.reward.functions, config.reward.function_weights = ("tiny_run:second_earns_more",), (1.0,)
    config.eval.num_problems = config.eval.batch_size = 6
    config.observe.log_completions, config.observe.tensorboard, config.observe.progress = 1, False, False
    return config


def second_earns_more(prompts, completions, **columns) -> list[float]:
    """A reward for the second sample of each prompt: an untrained model earns nothing, so nothing would be learned."""
    return [float(row % 2) for row in range(len(completions))]


@pytest.fixture
def quick(monkeypatch, tmp_path_factory):
    """One device instead of the tests' eight, and programs compiled once a session."""
    monkeypatch.setattr(components, "make_mesh", lambda sizes, limits: make_mesh(sizes, jax.devices()[:1], limits))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.getbasetemp() / "compiled"))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
