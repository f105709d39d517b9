"""What the TPU compiler is told, and by whom."""

import os

import pytest

from r1vl_jax.tpu_compiler import set_options

NAME = "LIBTPU_INIT_ARGS"
GATHER = "--xla_jf_spmd_threshold_for_windowed_einsum_mib"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f"{GATHER}=1000000"),
        ("--xla_other=1", f"{GATHER}=1000000 --xla_other=1"),
        (f"{GATHER}=1", f"{GATHER}=1"),
    ],
)
def test_what_a_user_has_set_stays(monkeypatch, given, expected):
    monkeypatch.setenv(NAME, given)
    for _ in range(2):
        set_options()
        assert os.environ[NAME] == expected
