"""Says before a pod is rented whether a run fits it, and what it will spend its time on.

    python -m r1vl_jax.aot --config=configs/7b.py --topology=v5e:8x8 [--json=FILE] [--config.SECTION.KEY=VALUE ...]

Every program of the run is compiled by the TPU compiler (`pip install 'r1vl_jax[aot]'`) for a topology that is not
there: no accelerator, no weights and no data are needed. The exit status is 0 if every program fits, and 1 if one does
not; then what would fit is searched for, unless with `--nosearch`. It is 2 if nothing could be compiled, or if the
compiler failed in a program of the run for another reason than memory; the others are reported then, too.
"""

import functools
import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from r1vl_jax.aot.compile_all import compile_all
from r1vl_jax.aot.report import Report, show, to_json
from r1vl_jax.aot.search import first_that_fits
from r1vl_jax.aot.topologies import parse, without_hardware
from r1vl_jax.config import Config, resolve
from r1vl_jax.runtime import libtpu
from r1vl_jax.runtime.cli import check_json, run_with_config

_WIDTH = 100  # that the tables need, in columns


def run(config: Config, options: flags.FlagValues) -> Report:
    """Compiles, prints and writes what the options ask for."""
    topology = parse(options.topology, options.slices)
    save_to = Path(options.save) if options.save else None
    check_json(options.json)
    if save_to and save_to.exists() and not save_to.is_dir():
        raise ValueError(f"--save={options.save}: expected a directory, which is made where it is missing; got a file")
    if options.programs == []:
        raise ValueError("--programs=: expected names of the table, separated by commas; without the flag it is all")
    if reason := libtpu.version_mismatch():
        print(f"warning: {reason}", file=sys.stderr)
    report = compile_all(config, topology, options.programs or (), save_to=save_to)
    show(report, Console(width=max(Console().width, _WIDTH)))
    _write(report, None, options.json)  # now, for a search may be ended
    if not report.fits and not report.failed and options.search:
        would_fit = first_that_fits(report, config, functools.partial(compile_all, until_one_fails=True))
        print(f"the first that fits: {would_fit}" if would_fit else "nothing that was tried fits")
        _write(report, would_fit, options.json)
    return report


def exit_status(report: Report) -> int:
    """0: every program of the run fits; 1: one does not; 2: the compiler failed in one."""
    if report.failed:
        return 2
    return 0 if report.fits else 1


def _write(report: Report, would_fit: str | None, path: str | None) -> None:
    if path:
        Path(path).write_text(json.dumps(to_json(report, would_fit), indent=2), encoding="utf-8")


def main() -> None:
    flags.DEFINE_string("topology", None, "A slice, as v5e:4x4, v5e-16 or v5p-128.", required=True)
    flags.DEFINE_integer("slices", 1, "How many such slices.")
    flags.DEFINE_list("programs", None, "Only these programs, by their names in the table.")
    flags.DEFINE_bool("search", True, "Whether to search for what would fit when a program does not.")
    flags.DEFINE_string("json", None, "A file that receives all figures.")
    flags.DEFINE_string("save", None, "A directory that receives the compiled programs.")

    def start(recipe: ConfigDict) -> None:
        without_hardware()
        try:
            report = run(resolve(recipe), flags.FLAGS)
        except (ValueError, RuntimeError, OSError) as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        sys.exit(exit_status(report))

    run_with_config(start, status_of_refusal=2)


if __name__ == "__main__":
    main()
