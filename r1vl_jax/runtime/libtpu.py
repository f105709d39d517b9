"""The TPU compiler (libtpu): whether it suits JAX, and what it is told beside the program.

The same when training and when compiling without a TPU.
"""

import os
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_VARIABLE = "LIBTPU_INIT_ARGS"  # read once, when JAX first looks for TPUs

# Before a product, gather the matrix that is divided. Else the compiler passes its pieces round and adds to the whole
# product in main memory once a piece, which for the 7B model on 16 chips takes longer than computing.
_OPTIONS = ("--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",)


def set_options() -> None:
    """To be called before JAX looks for devices; an option that the user has set stays."""
    given = os.environ.get(_VARIABLE, "")
    missing = (option for option in _OPTIONS if option.split("=")[0] not in given)
    os.environ[_VARIABLE] = " ".join([*missing, *given.split()])


def version_mismatch() -> str | None:
    """In words, that the installed libtpu is not of the release of JAX; None where it is, or where there is none.

    JAX misreads the structs and programs of another one: traces end the process (JAX 0.10.2 with libtpu 0.0.52, not
    with its own 0.0.42.1), and large programs for v6e and v5p cannot be printed.
    """
    try:
        installed = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None
    required = map(Requirement, metadata.requires("jax") or [])
    expected = next((each.specifier for each in required if each.name == "libtpu"), None)
    if expected is None or installed in expected:
        return None
    return (
        f"libtpu {installed} is installed, jax {metadata.version('jax')} expects {expected}: they misunderstand each"
        " other; pip install 'jax[tpu]' brings the one that fits"
    )


def is_loaded() -> bool:
    """Whether libtpu is in this process, for a TPU or to compile for one."""
    maps = Path("/proc/self/maps")  # where there is none there is no libtpu either
    return maps.exists() and "/libtpu.so" in maps.read_text()
