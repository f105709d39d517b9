"""Programs lowered for GPUs on a machine without one: what cannot be expressed there is known before it is rented."""

from jax import export

from r1vl_jax.aot.programs import Program


def lower_for_gpu(program: Program) -> export.Exported:
    """The program for as many GPUs as its places name devices, of any kind; its model must be defined for "gpu".

    Nothing is compiled: XLA does that on the GPUs' own machine. Programs with attention of whole sequences have to be
    in float32: for cuDNN's kernels JAX wants CUDA's libraries and a GPU.
    """
    return export.export(program.function, platforms=["cuda"])(*program.static, *program.arguments)
