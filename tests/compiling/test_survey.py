"""What is said of a program that the compiler takes but cannot print."""

from types import SimpleNamespace

import jax
import numpy as np

from r1vl_jax.compiling import report, survey
from r1vl_jax.compiling.compiler import Compiled, Memory
from r1vl_jax.compiling.operations import Operations
from r1vl_jax.compiling.programs import Program
from r1vl_jax.compiling.topologies import parse


class Unprintable:
    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nand more")


def test_a_program_that_cannot_be_printed_is_reported_without_its_time(monkeypatch):
    program = Program("update", "step_grpo", None, (), (), held={}, operations=Operations(1.0))
    compiled = Compiled(
        program, Memory(arguments=2, outputs=1, aliased=1, temporaries=3, held=4, has=100), Unprintable(), (), 1.0
    )  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(survey, "compile_for", lambda *_: compiled)
    mesh = SimpleNamespace(devices=np.array([]), shape={"tensor": 1})
    entry = survey._entry(program, parse("v6e-8"), mesh, {})
    assert entry.roofline is None
    assert entry.unread == "INTERNAL: RET_CHECK failure"
    assert entry.result.fits
    assert any("cannot print this program" in line for line in report._remarks(entry))
    whole = report.Report(parse("v6e-8"), {"tensor": 1}, "a model", (entry,))
    assert report.to_json(whole)["programs"][0]["memory"]["peak"] == 9
    assert report.to_json(whole)["stages"] == {"step_grpo": {"step_seconds": None, "utilisation": None}}
