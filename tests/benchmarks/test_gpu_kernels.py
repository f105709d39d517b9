"""The benchmark of GPU kernels runs, and detects a wrong kernel."""

import functools
import io
import math
import pkgutil
import re
import sys

import jax
import pytest
from rich.console import Console

from benchmarks import gpu_kernels
from r1vl_jax.models import decode_linear_gpu
from r1vl_jax.models.attention import cudnn, flash_decode_gpu
from r1vl_jax.models.presets import PRESETS


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_identical_computations_pass(console):
    assert gpu_kernels.run(4, 64, [PRESETS["tiny"]], platform="cpu", console=console)
    assert "128, 32 tokens" in console.file.getvalue()


def test_missing_kernels_are_reported(console, monkeypatch):
    for module in (flash_decode_gpu, decode_linear_gpu):
        monkeypatch.setattr(module, "triton", None)
    with pytest.warns(UserWarning, match="uses plain attention"):
        assert not gpu_kernels.run(4, 64, [PRESETS["tiny"]], platform="cpu", console=console)
    assert console.file.getvalue().count("none") == 2


@pytest.mark.parametrize("flags", [["--prompts=3"], ["--prompts=0"], ["--length=1"], []])
def test_invalid_flags_are_an_error(monkeypatch, flags):
    """Without flags, that there is no GPU."""
    monkeypatch.setattr(sys, "argv", ["gpu_kernels", *flags])
    with pytest.raises(SystemExit) as refused:
        gpu_kernels.main()
    assert refused.value.code not in (0, None)


def _scaled(factor: float):
    return lambda results: jax.tree.map(lambda each: each * factor, results)


def _slow(*values: object):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "corrupt", "wrong_cases"),
    [
        ("", None, []),
        _slow("attention.cudnn.cudnn_attention", _scaled(1.02), ["images", "128, text"]),
        ("attention.flash_decode_gpu.flash_decode", _scaled(1.02), ["128, 32 tokens", "128, decoder layer"]),
        _slow("attention.flash_decode_gpu.flash_decode", _scaled(math.nan), ["128, 32 tokens", "128, decoder layer"]),
        _slow("decode_linear_gpu.matmul_split_k", _scaled(1.1), ["128, decoder layer"]),
        _slow("decode_linear_gpu.fused_add_rms_norm", _scaled(1.1), ["128, decoder layer"]),
        _slow("decode_linear_gpu.swiglu", _scaled(1.1), ["128, decoder layer"]),
        ("decode_linear_gpu.qkv_heads_with_rope", _scaled(1.1), ["128, decoder layer"]),
    ],
)
def test_a_wrong_kernel_is_detected(console, capsys, monkeypatch, name, corrupt, wrong_cases):
    """In the cases that use it and in no other; kernels are interpreted."""
    attend, decode = cudnn.cudnn_attention, flash_decode_gpu.flash_decode
    monkeypatch.setattr(cudnn, "cudnn_attention", functools.partial(attend, implementation="xla"))
    monkeypatch.setattr(flash_decode_gpu, "flash_decode", functools.partial(decode, interpret=True))
    monkeypatch.setattr(
        decode_linear_gpu, "_pallas_call", functools.partial(decode_linear_gpu._pallas_call, interpret=True)
    )
    if corrupt is not None:
        path = f"r1vl_jax.models.{name}"
        right = pkgutil.resolve_name(path)
        monkeypatch.setattr(path, lambda *inputs, **settings: corrupt(right(*inputs, **settings)))
    assert gpu_kernels.run(4, 64, [PRESETS["tiny"]], platform="gpu", console=console) == (not wrong_cases)
    errors = re.findall(r"^(.*): (\S+), (\S+), \S+, \S+, \S+$", capsys.readouterr().err, re.MULTILINE)
    assert len(errors) == 4
    detected = [case for case, kernel, plain in errors if not float(kernel) <= 2 * float(plain)]
    assert [case.removesuffix(", forward and backward") for case in detected] == wrong_cases
