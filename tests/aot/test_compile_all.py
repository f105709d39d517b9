"""What is rejected before anything is compiled, and the report on a program whose HLO cannot be printed."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers.small_pod import get_config

from r1vl_jax.aot import compile_all, report
from r1vl_jax.aot.compile import Compiled, Memory
from r1vl_jax.aot.flops import Flops
from r1vl_jax.aot.hlo.roofline import totals_by_kind
from r1vl_jax.aot.programs import Program
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.config import Eval, Mesh, Model, resolve


class Unprintable:
    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nand more")


def test_a_mesh_that_a_run_rejects_is_rejected():
    """72B's heads could be sharded over eight devices, but a process of a pod has four."""
    pytest.importorskip("libtpu")
    set_up_compile_only()
    config = replace(resolve(get_config()), model=Model(preset="72b", dtype="bfloat16"), mesh=Mesh(tensor=8))
    config = replace(config, train=replace(config.train, prompts_per_update=16), eval=Eval(batch_size=16))
    with pytest.raises(ValueError, match="mesh.tensor=8: expected devices of one process along tensor"):
        compile_all.compile_all(config, parse_topology("v5p-256"))


def test_an_unknown_program_is_rejected():
    pytest.importorskip("libtpu")
    set_up_compile_only()
    with pytest.raises(ValueError, match="^--programs: there is no updates; this configuration has sync_layers,"):
        compile_all.compile_all(resolve(get_config()), parse_topology("v5e-4"), ["updates"])


@pytest.mark.parametrize("topology", ["v5e-4", "v6e-4", "v5p-8"])
def test_an_update_gathers_a_layer_at_a_time(topology):
    """No device all-gathers a whole stack of layers, and the compiler warns of no replicated array."""
    pytest.importorskip("libtpu")
    set_up_compile_only()
    (entry,) = compile_all.compile_all(resolve(get_config()), parse_topology(topology), ["update"]).entries
    assert isinstance(entry.result, Compiled)
    assert entry.result.warnings == ()
    assert entry.roofline is not None
    kinds = totals_by_kind(entry.roofline.collectives)
    assert kinds["all-gather"]["count"] > 20  # among them those of the layers' matrices
    assert entry.gathered_stacks == ()


def test_a_program_without_printable_hlo_is_reported_without_its_time(monkeypatch):
    program = Program("update", "step_grpo", None, (), (), resident={}, flops=Flops(1.0))
    compiled = Compiled(
        program,
        Memory(arguments=2, outputs=1, aliased=1, temporaries=3, resident=4, available=100),
        Unprintable(),
        (),
        1.0,
    )  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(compile_all, "compile_for", lambda *_: compiled)
    mesh = SimpleNamespace(devices=np.array([]), shape={"tensor": 1})
    entry = compile_all._analyze(program, parse_topology("v6e-8"), mesh, {})
    assert entry.roofline is None
    assert entry.unprintable == "INTERNAL: RET_CHECK failure"
    assert entry.result.fits
    assert any("HLO cannot be printed" in line for line in report._notes(entry))
    whole = report.Report(parse_topology("v6e-8"), {"tensor": 1}, "a model", (entry,))
    assert report.to_json(whole)["programs"][0]["memory"]["peak"] == 9
    assert report.to_json(whole)["stages"] == {"step_grpo": {"step_seconds": None, "mfu": None}}
