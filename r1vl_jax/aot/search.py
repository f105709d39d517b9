"""What would make a configuration fit: settings that cost time and no result first, then a larger slice."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from r1vl_jax.aot.compile_all import UnknownProgram
from r1vl_jax.aot.report import Report
from r1vl_jax.aot.topologies import Topology
from r1vl_jax.config import Config, validate
from r1vl_jax.config.mesh import divisors

# Compiles some programs of a configuration, or all, for a topology.
CompileAll = Callable[[Config, Topology, Collection[str]], Report]

_REMAT = ("none", "dots", "block", "offload")
_LEAST_CHUNK = 128


def first_that_fits(report: Report, config: Config, survey: CompileAll) -> str | None:
    """What to add to the command line so that all programs fit; None if nothing does.

    Args:
        report: on this configuration, with programs that do not fit.
    """
    changes = settings_that_fit(report, config, survey)
    if changes is not None:
        return describe(changes)
    for topology in larger(report.topology):
        if _fits(survey, config, topology, ()):
            return f"--topology={topology.chip.name}:{topology.shape}"
    return None


def settings_that_fit(report: Report, config: Config, survey: CompileAll) -> dict[str, Any] | None:
    """Changes with which all programs fit the same devices; None if there are none."""
    faults = [entry.result.program for entry in report.entries if entry.is_fault]
    if not all(program.settings for program in faults):
        return None
    same_mesh = changed(config, {f"mesh.{axis}": size for axis, size in report.mesh.items()})
    changes: dict[str, Any] = {}
    for program in faults:  # one after another: each is changed as far as it needs, and no program is compiled in vain
        for more in ({}, *settings_to_try(changed(config, changes), program.settings)):
            together = changes | more
            if together and _fits(survey, changed(same_mesh, together), report.topology, [program.name]):
                changes = together
                break
        else:
            return None
    return changes


def _fits(survey: CompileAll, config: Config, topology: Topology, names: Collection[str]) -> bool:
    try:
        return survey(config, topology, names).fits
    except UnknownProgram:  # training has it, in the same shapes
        return True
    except ValueError:  # the mesh does not suit the batches, or the heads
        return False


def settings_to_try(config: Config, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Changes of some settings, each with those before it, that leave numbers as they are and need less memory."""
    changes: dict[str, Any] = {}
    for name in names:
        for value in _VALUES[name](config):
            change = changes | {name: value}
            if not any(validate(changed(config, change))):
                changes = change
                yield changes


def _remats(config: Config) -> Iterable[str]:
    return _REMAT[_REMAT.index(config.model.remat) + 1 :]


def _more_parts(config: Config) -> Iterable[int]:
    return range(config.train.micro_batches + 1, _num_rows(config) + 1)


def _smaller_chunks(config: Config) -> Iterator[int]:
    chunk_size = config.loss.logp_chunk_size
    while chunk_size > _LEAST_CHUNK:
        chunk_size //= 2
        yield chunk_size


def _fewer_slots(config: Config) -> Iterable[int]:
    return _smaller_divisors(_num_rows(config), config.sampling.slots or _num_rows(config))


def _fewer_prompts(config: Config) -> Iterable[int]:
    return _smaller_divisors(config.eval.batch_size, config.eval.batch_size)


def _smaller_divisors(number: int, limit: int) -> list[int]:
    """From the largest on."""
    return [divisor for divisor in reversed(divisors(number)) if divisor < limit]


def _num_rows(config: Config) -> int:
    return config.train.prompts_per_update * config.sampling.num_generations


# What may be tried of each setting, from the mildest on.
_VALUES: dict[str, Callable[[Config], Iterable[Any]]] = {
    "model.remat": _remats,
    "train.micro_batches": _more_parts,
    "loss.logp_chunk_size": _smaller_chunks,
    "sampling.slots": _fewer_slots,
    "eval.batch_size": _fewer_prompts,
}


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


def describe(changes: dict[str, Any]) -> str:
    """As they are written on the command line."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())
