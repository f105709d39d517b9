"""Searches for what makes a configuration fit: settings that trade speed for memory first, then a larger slice."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from r1vl_jax.aot.compile_all import UnknownProgram
from r1vl_jax.aot.report import Report
from r1vl_jax.aot.topologies import Topology
from r1vl_jax.config import Config, validate
from r1vl_jax.config.mesh import divisors

# (configuration, topology, program names or none for all) -> report
CompileFn = Callable[[Config, Topology, Collection[str]], Report]

_REMAT = ("none", "dots", "block", "offload")
_MIN_CHUNK_SIZE = 128


def first_that_fits(report: Report, config: Config, compile_fn: CompileFn) -> str | None:
    """Flags with which all programs fit; None if none are found.

    Args:
        report: of this configuration, with programs that do not fit.
    """
    changes = settings_that_fit(report, config, compile_fn)
    if changes is not None:
        return as_flags(changes)
    for topology in larger_slices(report.topology):
        if _fits(compile_fn, config, topology, ()):
            return f"--topology={topology.chip.name}:{topology.shape}"
    return None


def settings_that_fit(report: Report, config: Config, compile_fn: CompileFn) -> dict[str, Any] | None:
    """Changed settings with which all programs fit the same devices; None if there are none."""
    too_large = [entry.result.program for entry in report.entries if entry.blocks_run]
    if not all(program.memory_settings for program in too_large):
        return None
    same_mesh = with_settings(config, {f"mesh.{axis}": size for axis, size in report.mesh.items()})
    changes: dict[str, Any] = {}
    for program in too_large:  # one at a time: settings change as far as it needs, and only it is compiled again
        for change in ({}, *candidate_settings(with_settings(config, changes), program.memory_settings)):
            combined = changes | change
            if combined and _fits(compile_fn, with_settings(same_mesh, combined), report.topology, [program.name]):
                changes = combined
                break
        else:
            return None
    return changes


def _fits(compile_fn: CompileFn, config: Config, topology: Topology, names: Collection[str]) -> bool:
    try:
        return compile_fn(config, topology, names).fits
    except UnknownProgram:  # with these settings, evaluation shares training's program
        return True
    except ValueError:  # the mesh does not divide the batches or the heads
        return False


def candidate_settings(config: Config, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Cumulative changes of the named settings that need less memory, from the mildest on; results stay the same."""
    changes: dict[str, Any] = {}
    for name in names:
        for value in _CANDIDATES[name](config):
            change = changes | {name: value}
            if not any(validate(with_settings(config, change))):
                changes = change
                yield changes


def _more_remat(config: Config) -> Iterable[str]:
    return _REMAT[_REMAT.index(config.model.remat) + 1 :]


def _more_micro_batches(config: Config) -> Iterable[int]:
    return range(config.train.micro_batches + 1, _num_rows(config) + 1)


def _smaller_chunks(config: Config) -> Iterator[int]:
    chunk_size = config.loss.logp_chunk_size
    while chunk_size > _MIN_CHUNK_SIZE:
        chunk_size //= 2
        yield chunk_size


def _fewer_slots(config: Config) -> Iterable[int]:
    return _smaller_divisors(_num_rows(config), config.sampling.slots or _num_rows(config))


def _smaller_eval_batches(config: Config) -> Iterable[int]:
    return _smaller_divisors(config.eval.batch_size, config.eval.batch_size)


def _smaller_divisors(number: int, limit: int) -> list[int]:
    """Divisors below the limit, largest first."""
    return [divisor for divisor in reversed(divisors(number)) if divisor < limit]


def _num_rows(config: Config) -> int:
    return config.train.prompts_per_update * config.sampling.num_generations


# Values to try for each setting, the mildest first.
_CANDIDATES: dict[str, Callable[[Config], Iterable[Any]]] = {
    "model.remat": _more_remat,
    "train.micro_batches": _more_micro_batches,
    "loss.logp_chunk_size": _smaller_chunks,
    "sampling.slots": _fewer_slots,
    "eval.batch_size": _smaller_eval_batches,
}


def larger_slices(topology: Topology) -> Iterator[Topology]:
    """The usual slices with more chips, smallest first."""
    following = topology.next_larger()
    while following is not None:
        yield following
        following = following.next_larger()


def with_settings(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with some settings replaced: dotted name -> value."""
    for name, value in changes.items():
        section, setting = name.split(".")
        part = dataclasses.replace(getattr(config, section), **{setting: value})
        config = dataclasses.replace(config, **{section: part})
    return config


def as_flags(changes: dict[str, Any]) -> str:
    """Settings as command-line flags."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())
