"""What every program with a recipe does before it starts."""

import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from r1vl_jax import tpu_compiler
from r1vl_jax.config import unknown_settings


def start_with_recipe(start: Callable[[ConfigDict], None]) -> None:
    """Reads `--config=RECIPE`, its settings and the flags defined before, and starts; never returns.

    A setting that there is not is refused with the nearest one that there is.
    """
    recipe = config_flags.DEFINE_config_file("config", None, "A recipe, such as configs/7b.py.", lock_config=True)
    flags.mark_flag_as_required("config")
    if unknown := list(unknown_settings(sys.argv[1:])):
        sys.exit("\n".join(unknown))
    tpu_compiler.set_options()
    app.run(lambda _: start(recipe.value))
