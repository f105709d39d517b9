"""The command line of every program that takes a recipe: `--config=RECIPE [--config.SECTION.KEY=VALUE ...]`."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from r1vl_jax.config import unknown_settings
from r1vl_jax.runtime import libtpu


def run_with_config(main: Callable[[ConfigDict], None], *, error_status: int = 1) -> None:
    """Parses `--config` and the flags that were defined before, and calls `main` with the recipe; never returns.

    A setting that does not exist is refused, with the nearest one that does.

    Args:
        error_status: exit status for a command line that is refused.
    """
    recipe = config_flags.DEFINE_config_file("config", None, "A recipe, such as configs/7b.py.", lock_config=True)
    flags.mark_flag_as_required("config")

    def refuse(reason: str) -> None:
        print(reason, file=sys.stderr)
        sys.exit(error_status)

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except (flags.Error, OSError) as error:  # OSError: the value of a file setting is a file that does not exist
            refuse(f"{error}\n--help lists the flags")
            raise

    if unknown := list(unknown_settings(sys.argv[1:])):
        refuse("\n".join(unknown))
    libtpu.set_options()
    libtpu.skip_without_tpu()
    app.run(lambda _: main(recipe.value), flags_parser=parse)


def check_output_file(flag: str, path: str | None) -> None:
    """Refuses a flag such as "--json" before the work whose results the file would receive.

    Raises:
        ValueError: the file cannot be created.
    """
    if path and (Path(path).is_dir() or not Path(path).parent.is_dir()):
        raise ValueError(f"{flag}={path}: expected a file in an existing directory; create it first")
