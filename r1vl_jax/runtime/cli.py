"""What every program with a recipe does before it starts."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from r1vl_jax.config import unknown_settings
from r1vl_jax.runtime import libtpu


def run_with_config(start: Callable[[ConfigDict], None], *, status_of_refusal: int = 1) -> None:
    """Reads `--config=RECIPE`, its settings and the flags defined before, and starts; never returns.

    A setting that there is not is refused with the nearest one that there is.

    Args:
        status_of_refusal: of the process, where it does not start.
    """
    recipe = config_flags.DEFINE_config_file("config", None, "A recipe, such as configs/7b.py.", lock_config=True)
    flags.mark_flag_as_required("config")

    def refuse(reason: str) -> None:
        print(reason, file=sys.stderr)
        sys.exit(status_of_refusal)

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except (flags.Error, OSError) as error:  # the second, where a setting is given for a file that is not there
            refuse(f"{error}\n--help lists the flags")
            raise

    if unknown := list(unknown_settings(sys.argv[1:])):
        refuse("\n".join(unknown))
    libtpu.set_options()
    app.run(lambda _: start(recipe.value), flags_parser=parse)


def check_json(path: str | None) -> None:
    """Of a flag `--json`; before the work whose figures the file receives.

    Raises:
        ValueError: there can be no such file.
    """
    if path and (Path(path).is_dir() or not Path(path).parent.is_dir()):
        raise ValueError(f"--json={path}: expected a file in a directory that is there; make it first")
