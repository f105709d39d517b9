"""A valid configuration with some settings changed."""

from ml_collections import ConfigDict

from r1vl_jax.config import default


def make_config(**changes) -> ConfigDict:
    """The default configuration with some settings changed, given as `section__key=value`."""
    config = default()
    config.workdir = "runs/test"
    config.warmup.max_steps = 1
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config
