"""What the TPU compiler is told beside the program: the same when training and when compiling without a TPU."""

import os

_VARIABLE = "LIBTPU_INIT_ARGS"  # read once, when JAX first looks for TPUs

# Before a product, gather the matrix that is divided. Else the compiler passes its pieces round and adds to the whole
# product in main memory once a piece, which for the 7B model on 16 chips takes longer than computing.
_OPTIONS = ("--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",)


def set_options() -> None:
    """To be called before JAX looks for devices; an option that the user has set stays."""
    given = os.environ.get(_VARIABLE, "")
    missing = (option for option in _OPTIONS if option.split("=")[0] not in given)
    os.environ[_VARIABLE] = " ".join([*missing, *given.split()])
