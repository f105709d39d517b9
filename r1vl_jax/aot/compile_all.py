"""From a configuration and a topology to the report on all of its programs."""

from collections.abc import Collection
from pathlib import Path

import jax

from r1vl_jax.aot import saving
from r1vl_jax.aot.compile import Compiled, compile_for
from r1vl_jax.aot.hlo.roofline import roofline, whole_stacks
from r1vl_jax.aot.programs import Program, programs
from r1vl_jax.aot.report import Entry, Report
from r1vl_jax.aot.topologies import Topology
from r1vl_jax.arrays import BATCH_AXES, Params
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import Config
from r1vl_jax.sharding.global_arrays import local_shards
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.components import make_definition, mesh_limits


class UnknownProgram(ValueError):
    """A configuration has no program of this name."""


def compile_all(
    config: Config,
    topology: Topology,
    names: Collection[str] = (),
    *,
    until_one_fails: bool = False,
    save_to: Path | None = None,
) -> Report:
    """Compiles the programs of a configuration for a topology.

    Args:
        names: of programs; none is all.
        until_one_fails: whether to stop at the first that is used and does not fit.
        save_to: a directory that receives the compiled programs.

    Raises:
        ValueError: the mesh does not fit the topology, the batches do not fit the mesh, or a program is unknown.
        RuntimeError: there is no TPU compiler.
    """
    sizes = expected_config(config.model)
    mesh = make_mesh(config.mesh, topology.devices(), mesh_limits(config, sizes))
    local_shards(mesh, BATCH_AXES)  # refuses what a run would refuse
    model = make_definition(config, sizes, mesh, platform="tpu")
    params, entries = model.abstract_params(), []
    for program in _chosen(list(programs(config, model, topology.chip.memory_bytes)), names):
        entry = _entry(program, topology, mesh, params)
        entries.append(entry)
        if save_to and isinstance(entry.result, Compiled):
            saving.save(entry.result.executable, save_to / f"{program.name.replace(' ', '_')}.program")
        if until_one_fails and entry.is_fault:
            break
    return Report(topology, dict(mesh.shape), _describe(config), tuple(entries), is_whole=not names)


def _chosen(every: list[Program], names: Collection[str]) -> list[Program]:
    if unknown := set(names) - {program.name for program in every}:
        known = ", ".join(program.name for program in every)
        raise UnknownProgram(f"--programs: there is no {', '.join(sorted(unknown))}; this configuration has {known}")
    return [program for program in every if not names or program.name in names]


def _entry(program: Program, topology: Topology, mesh: jax.sharding.Mesh, params: Params) -> Entry:
    result = compile_for(program, topology.chip.memory_bytes)
    if not isinstance(result, Compiled):
        return Entry(result)
    slices = [getattr(device, "slice_index", 0) for device in mesh.devices.flat]
    try:
        found = roofline(result, topology.chip, slices)
    except jax.errors.JaxRuntimeError as error:  # with a libtpu of another release than JAX
        return Entry(result, unread=str(error).splitlines()[0])
    return Entry(result, found, tuple(whole_stacks(found.exchanges, params, mesh.shape["tensor"])))


def _describe(config: Config) -> str:
    """Whose sizes were taken."""
    path = Path(config.model.path)
    if config.model.path and (path / "config.json").is_file():
        return f"the model in {path}"
    return f"a model of size {config.model.preset}"
