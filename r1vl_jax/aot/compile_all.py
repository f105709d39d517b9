"""Compiles all programs of a configuration for a topology, and reports on each."""

from collections.abc import Collection
from pathlib import Path

import jax

from r1vl_jax.aot.compile import Compiled, compile_for, save_executable
from r1vl_jax.aot.hlo.roofline import gathered_stacks, roofline
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
    """The configuration has no program of this name."""


def compile_all(
    config: Config,
    topology: Topology,
    names: Collection[str] = (),
    *,
    stop_on_failure: bool = False,
    save_dir: Path | None = None,
) -> Report:
    """Compiles the programs of a configuration for a topology.

    Args:
        names: of the programs to compile; all if empty.
        stop_on_failure: stop at the first program of the run that does not fit.
        save_dir: directory for the serialized executables.

    Raises:
        ValueError: the mesh does not fit the topology, the batches do not fit the mesh, or a program is unknown.
        RuntimeError: there is no TPU compiler.
    """
    sizes = expected_config(config.model)
    mesh = make_mesh(config.mesh, topology.devices(), mesh_limits(config, sizes))
    local_shards(mesh, BATCH_AXES)  # raises where a run would
    model = make_definition(config, sizes, mesh, platform="tpu")
    params, entries = model.abstract_params(), []
    for program in _select(list(programs(config, model, topology.chip.hbm_bytes)), names):
        entry = _analyze(program, topology, mesh, params)
        entries.append(entry)
        if save_dir and isinstance(entry.result, Compiled):
            save_executable(entry.result.executable, save_dir / f"{program.name}.program")
        if stop_on_failure and entry.blocks_run:
            break
    return Report(topology, dict(mesh.shape), _describe(config), tuple(entries), is_complete=not names)


def _select(available: list[Program], names: Collection[str]) -> list[Program]:
    if unknown := set(names) - {program.name for program in available}:
        known = ", ".join(program.name for program in available)
        raise UnknownProgram(f"--programs: there is no {', '.join(sorted(unknown))}; this configuration has {known}")
    return [program for program in available if not names or program.name in names]


def _analyze(program: Program, topology: Topology, mesh: jax.sharding.Mesh, params: Params) -> Entry:
    result = compile_for(program, topology.chip.hbm_bytes)
    if not isinstance(result, Compiled):
        return Entry(result)
    slices = [getattr(device, "slice_index", 0) for device in mesh.devices.flat]
    try:
        bounds = roofline(result, topology.chip, slices)
    except jax.errors.JaxRuntimeError as error:  # a libtpu of another release than JAX may fail to print the HLO
        return Entry(result, unprintable=str(error).splitlines()[0])
    return Entry(result, bounds, tuple(gathered_stacks(bounds.collectives, params, mesh.shape["tensor"])))


def _describe(config: Config) -> str:
    """Which model the shapes are of."""
    path = Path(config.model.path)
    if config.model.path and (path / "config.json").is_file():
        return f"the model in {path}"
    return f"a model of size {config.model.preset}"
