"""Checks before a TPU slice is rented whether a run fits its memory, and what bounds its speed.

    python -m r1vl_jax.aot --config=configs/7b.py --topology=v5e:8x8 [--json=FILE] [--markdown=FILE]
        [--config.SECTION.KEY=VALUE ...]

The TPU compiler (`pip install 'r1vl_jax[aot]'`) compiles every program of the run ahead of time for the topology: no
accelerator, weights or data are needed. The exit status is

    0   every program fits
    1   a program does not fit; unless `--nosearch` is given, settings or slices that would fit are searched for
    2   nothing could be compiled, or the compiler failed on a program for another reason than memory; the report then
        covers the other programs
"""

import functools
import json
import sys
from importlib import metadata
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from r1vl_jax.aot.compile_all import compile_all
from r1vl_jax.aot.report import Report, print_report, to_json, to_markdown
from r1vl_jax.aot.search import first_that_fits
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.config import Config, resolve
from r1vl_jax.observe.markdown import provenance
from r1vl_jax.runtime import libtpu
from r1vl_jax.runtime.cli import check_output_file, run_with_config

_MIN_WIDTH = 100  # columns that the tables need


def run(config: Config, flag_values: flags.FlagValues) -> Report:
    """Compiles the programs, prints the report and writes what the flags ask for."""
    topology = parse_topology(flag_values.topology, flag_values.slices)
    save_dir = Path(flag_values.save) if flag_values.save else None
    check_output_file("--json", flag_values.json)
    check_output_file("--markdown", flag_values.markdown)
    if save_dir and save_dir.exists() and not save_dir.is_dir():
        raise ValueError(f"--save={flag_values.save}: expected a directory (created if missing), got a file")
    if flag_values.programs == []:
        raise ValueError("--programs=: expected program names separated by commas; leave the flag out for all programs")
    if reason := libtpu.version_mismatch():
        print(f"warning: {reason}", file=sys.stderr)
    report = compile_all(config, topology, flag_values.programs or (), save_dir=save_dir)
    print_report(report, Console(width=max(Console().width, _MIN_WIDTH)))
    _write(report, None, flag_values.json)  # before the search, which may be interrupted
    if flag_values.markdown:
        line = provenance(["python", "-m", "r1vl_jax.aot", *sys.argv[1:]], [f"libtpu {metadata.version('libtpu')}"])
        Path(flag_values.markdown).write_text(f"{line}\n\n{to_markdown(report)}", encoding="utf-8")
    if not report.fits and not report.failed and flag_values.search:
        would_fit = first_that_fits(report, config, functools.partial(compile_all, stop_on_failure=True))
        print(f"would fit: {would_fit}" if would_fit else "no setting or slice that was tried fits")
        _write(report, would_fit, flag_values.json)
    return report


def exit_status(report: Report) -> int:
    """0: every program of the run fits; 1: one does not fit; 2: the compiler failed on one."""
    if report.failed:
        return 2
    return 0 if report.fits else 1


def _write(report: Report, would_fit: str | None, path: str | None) -> None:
    if path:
        Path(path).write_text(json.dumps(to_json(report, would_fit), indent=2), encoding="utf-8")


def main() -> None:
    flags.DEFINE_string("topology", None, "TPU slice: v5e:4x4, v5e-16, v5p-128, ...", required=True)
    flags.DEFINE_integer("slices", 1, "Number of slices, connected by the data-center network.")
    flags.DEFINE_list("programs", None, "Only these programs, by their names in the report.")
    flags.DEFINE_bool("search", True, "Search for settings or a slice that fit if a program does not.")
    flags.DEFINE_string("json", None, "File for the report as JSON.")
    flags.DEFINE_string("markdown", None, "File for the tables as Markdown.")
    flags.DEFINE_string("save", None, "Directory for the serialized executables.")

    def start(recipe: ConfigDict) -> None:
        set_up_compile_only()
        try:
            report = run(resolve(recipe), flags.FLAGS)
        except (ValueError, RuntimeError, OSError) as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        sys.exit(exit_status(report))

    run_with_config(start, error_status=2)


if __name__ == "__main__":
    main()
