"""libtpu, the TPU's compiler and runtime: its options, its version, and whether this machine has a TPU for it."""

import os
from importlib import metadata
from pathlib import Path

import jax
from packaging.requirements import Requirement

_VARIABLE = "LIBTPU_INIT_ARGS"  # read once, when JAX first looks for TPUs

# All-gather a sharded matrix before a matmul. Otherwise the compiler chooses the windowed einsum (collective matmul),
# which passes shards around and accumulates into the product in HBM once per shard; for the 7B model on 16 chips that
# takes longer than the matmul.
_OPTIONS = ("--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",)

# Names of a TPU VM's devices and environment.
_TPU_DEVICES = ("accel*", "vfio/*")  # in /dev
_GPU_DEVICES = ("nvidia[0-9]*",)
_TPU_VARIABLES = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")


def set_options() -> None:
    """Sets libtpu's options, for training and for `aot` alike; before JAX looks for devices. The user's stay."""
    given = os.environ.get(_VARIABLE, "")
    missing = (option for option in _OPTIONS if option.split("=")[0] not in given)
    os.environ[_VARIABLE] = " ".join([*missing, *given.split()])


def skip_without_tpu() -> None:
    """Keeps JAX from trying libtpu where there is no TPU: it prints errors before JAX falls back to the CPU.

    To be called before JAX looks for devices. Changes nothing where JAX_PLATFORMS is set or JAX saw a TPU (it then sets
    `jax_platforms` itself), where devices or the environment are those of a TPU VM, with a plugin for other devices, or
    beside an NVIDIA GPU, of which JAX says itself that a CPU-only jaxlib does not use it.
    """
    is_tpu_vm = any(os.environ.get(name) for name in _TPU_VARIABLES)
    has_device = any(next(Path("/dev").glob(pattern), None) for pattern in (*_TPU_DEVICES, *_GPU_DEVICES))
    has_plugin = bool(metadata.entry_points(group="jax_plugins"))
    if jax.config.values["jax_platforms"] is None and not (is_tpu_vm or has_device or has_plugin):
        jax.config.update("jax_platforms", "cpu")


def version_mismatch() -> str | None:
    """A sentence if the installed libtpu does not match JAX's release; None if it does, or if there is no libtpu.

    JAX misreads the structs and programs of another release: traces end the process (JAX 0.10.2 with libtpu 0.0.52, not
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
        f"libtpu {installed} is installed, jax {metadata.version('jax')} expects {expected}: traces and large programs"
        " may fail; pip install 'jax[tpu]' brings the version that matches"
    )


def is_loaded() -> bool:
    """Whether libtpu is loaded in this process, for a TPU or to compile for one."""
    maps = Path("/proc/self/maps")  # without this file there is no libtpu either
    return maps.exists() and "/libtpu.so" in maps.read_text()
