"""What would make a configuration fit: settings that cost time and no result first, then a larger slice."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

from r1vl_jax.compiling.report import Report
from r1vl_jax.compiling.topologies import Topology
from r1vl_jax.config import Config, contradictions

# Compiles some programs of a configuration, or all, for a topology.
Survey = Callable[[Config, Topology, Collection[str]], Report]

_REMAT = ("none", "dots", "block", "offload")
_LEAST_CHUNK = 128


def first_that_fits(report: Report, config: Config, survey: Survey) -> str | None:
    """What to add to the command line so that all programs fit; None if nothing does.

    Args:
        report: on this configuration, with programs that do not fit.
    """
    faults = [entry.result.program for entry in report.entries if entry.is_fault]
    if all(program.is_tunable for program in faults):
        names = [program.name for program in faults]
        same_mesh = changed(config, {f"mesh.{axis}": size for axis, size in report.mesh.items()})
        for changes in settings_to_try(config):
            if _fits(survey, changed(same_mesh, changes), report.topology, names):
                return in_words(changes)
    for topology in larger(report.topology):
        if _fits(survey, config, topology, ()):
            return f"--topology={topology.chip.name}:{topology.shape}"
    return None


def _fits(survey: Survey, config: Config, topology: Topology, names: Collection[str]) -> bool:
    try:
        return survey(config, topology, names).fits
    except ValueError:  # the mesh does not suit the batches, or the heads
        return False


def settings_to_try(config: Config) -> Iterator[dict[str, Any]]:
    """Changes of settings, each with those before it, that leave numbers as they are and need less memory."""
    changes: dict[str, Any] = {}
    for remat in _REMAT[_REMAT.index(config.model.remat) + 1 :]:
        changes = changes | {"model.remat": remat}
        yield changes
    num_rows = config.train.prompts_per_update * config.sampling.num_generations
    for parts in range(config.train.micro_batches + 1, num_rows + 1):
        change = changes | {"train.micro_batches": parts}
        if not any(contradictions(changed(config, change))):
            changes = change
            yield changes
    chunk_size = config.loss.logp_chunk_size
    while chunk_size > _LEAST_CHUNK:
        chunk_size //= 2
        changes = changes | {"loss.logp_chunk_size": chunk_size}
        yield changes


def larger(topology: Topology) -> Iterator[Topology]:
    """The usual slices with more chips, from the smallest on."""
    following = topology.next_larger()
    while following is not None:
        yield following
        following = following.next_larger()


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with some settings, named as on the command line, replaced."""
    for name, value in changes.items():
        section, setting = name.split(".")
        part = dataclasses.replace(getattr(config, section), **{setting: value})
        config = dataclasses.replace(config, **{section: part})
    return config


def in_words(changes: dict[str, Any]) -> str:
    """As they are written on the command line."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())
