"""The check of a GPU's kernels: it runs, and it sees a kernel that is wrong."""

import functools
import io
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


def test_what_is_the_same_is_near(console):
    assert gpu_kernels.run(4, 64, [PRESETS["tiny"]], platform="cpu", console=console)
    assert "128, 32 tokens" in console.file.getvalue()


def test_where_there_is_no_kernel_it_is_told(console, monkeypatch):
    for module in (flash_decode_gpu, decode_linear_gpu):
        monkeypatch.setattr(module, "triton", None)
    with pytest.warns(UserWarning, match="takes plain attention"):
        assert not gpu_kernels.run(4, 64, [PRESETS["tiny"]], platform="cpu", console=console)
    assert console.file.getvalue().count("none") == 2


@pytest.mark.parametrize("flags", [["--prompts=3"], ["--prompts=0"], ["--length=1"], []])
def test_what_cannot_be_is_refused(monkeypatch, flags):
    """Without flags: that there is no GPU."""
    monkeypatch.setattr(sys, "argv", ["gpu_kernels", *flags])
    with pytest.raises(SystemExit) as refused:
        gpu_kernels.main()
    assert refused.value.code not in (0, None)


def _scaled(factor: float):
    return lambda results: jax.tree.map(lambda each: each * factor, results)


@pytest.mark.parametrize(
    ("name", "wrong", "rows"),
    [
        ("", None, []),
        ("cudnn.cudnn_attention", _scaled(1.02), ["pictures", "128, text"]),
        ("flash_decode.flash_decode", _scaled(1.02), ["128, 32 tokens", "128, a layer"]),
        ("flash_decode.flash_decode", _scaled(float("nan")), ["128, 32 tokens", "128, a layer"]),
        ("few_rows.product", _scaled(1.1), ["128, a layer"]),
        ("few_rows.add_and_norm", _scaled(1.1), ["128, a layer"]),
        ("few_rows.gated", _scaled(1.1), ["128, a layer"]),
        ("few_rows.heads", _scaled(1.1), ["128, a layer"]),
    ],
)
def test_what_is_wrong_is_seen(console, capsys, monkeypatch, name, wrong, rows):
    """And nothing else, with kernels that interpreters compute."""
    attend, decode = cudnn.cudnn_attention, flash_decode_gpu.flash_decode
    monkeypatch.setattr(cudnn, "cudnn_attention", functools.partial(attend, implementation="xla"))
    monkeypatch.setattr(flash_decode_gpu, "flash_decode", functools.partial(decode, interpret=True))
    monkeypatch.setattr(decode_linear_gpu, "_call", functools.partial(decode_linear_gpu._call, interpret=True))
    if wrong is not None:
        path = f"r1vl_jax.models.{name}"
        right = pkgutil.resolve_name(path)
        monkeypatch.setattr(path, lambda *inputs, **settings: wrong(right(*inputs, **settings)))
    assert gpu_kernels.run(4, 64, [PRESETS["tiny"]], platform="gpu", console=console) == (not rows)
    errors = re.findall(r"^(.*): (\S+), (\S+), \S+, \S+, \S+$", capsys.readouterr().err, re.MULTILINE)
    assert len(errors) == 4
    seen = [case for case, kernel, plain in errors if not float(kernel) <= 2 * float(plain)]
    assert [case.removesuffix(", forward and back") for case in seen] == rows
