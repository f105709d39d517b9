"""The check of a GPU's kernels: it runs, and it sees a kernel that is wrong."""

import functools
import io
import sys

import jax.numpy as jnp
import pytest
from rich.console import Console

from benchmarks import kernels
from r1vl_jax.models.presets import PRESETS


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_what_is_the_same_is_near(console):
    assert kernels.run(4, 64, [PRESETS["tiny"]], platform="cpu", console=console)
    assert "128, 32 tokens" in console.file.getvalue()


def test_where_there_is_no_kernel_it_is_told(console, monkeypatch):
    for module in (kernels.flash_decode, kernels.few_rows):
        monkeypatch.setattr(module, "triton", None)
    with pytest.warns(UserWarning, match="takes plain attention"):
        assert not kernels.run(4, 64, [PRESETS["tiny"]], platform="cpu", console=console)
    assert console.file.getvalue().count("none") == 2


@pytest.mark.parametrize("flags", [["--prompts=3"], ["--prompts=0"], ["--length=1"], []])
def test_what_cannot_be_is_refused(monkeypatch, flags):
    """Without flags: that there is no GPU."""
    monkeypatch.setattr(sys, "argv", ["kernels", *flags])
    with pytest.raises(SystemExit) as refused:
        kernels.main()
    assert refused.value.code not in (0, None)


@pytest.mark.parametrize("wrong", [lambda output: 1.02 * output, lambda output: output + jnp.nan])
def test_what_is_wrong_is_seen(console, monkeypatch, wrong):
    def attend(*inputs, platform, **settings):
        output, suffix = kernels_decode(*inputs, platform="cpu", **settings)
        return wrong(output) if platform == "gpu" else output, suffix

    kernels_decode = kernels.decode_attention
    monkeypatch.setattr(kernels.few_rows, "_call", functools.partial(kernels.few_rows._call, interpret=True))
    monkeypatch.setattr(kernels, "decode_attention", attend)
    monkeypatch.setattr(
        kernels, "attention", lambda *inputs, platform, **settings: jnp.zeros_like(inputs[0]) * jnp.sum(inputs[0])
    )
    assert not kernels.run(4, 64, [PRESETS["tiny"]], platform="gpu", console=console)
