"""TPU generations: published peak rates and usable HBM of one JAX device."""

from dataclasses import dataclass

_GIB = 2**30
_BITS = 8


@dataclass(frozen=True)
class Chip:
    """One JAX device: a whole chip, or on tpu7x one of a chip's two halves.

    Attributes:
        name: the prefix of topology names.
        hbm_bytes: HBM available to a program; the compiler reserves the rest of the chip's.
        flops: peak bfloat16 FLOP/s.
        hbm_bandwidth: bytes/s.
        ici_bandwidth: bytes/s sent to other devices of the slice, over all links together.
        dcn_bandwidth: bytes/s sent to devices of other slices, over the data-center network.
        devices_per_chip: 2 where JAX shows a chip as two devices.
        slice_shapes: the usual shapes of a slice, in chips, smallest first.
        cores_per_chip: TensorCores per chip; cloud names count them for some generations: "v5p-128" has 64 chips.
        options: arguments of `jax.experimental.topologies.get_topology_desc` beside the shape.
    """

    name: str
    hbm_bytes: float
    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    slice_shapes: tuple[str, ...]
    devices_per_chip: int = 1
    cores_per_chip: int = 1
    options: tuple[tuple[str, object], ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

# HBM: "available HBM" in the compiler's out-of-memory messages (libtpu 0.0.52). All else: the tables of
# https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x, read in 2026. ICI bandwidth is one direction:
# half of the published bidirectional one. DCN bandwidth is that of a host's network cards divided by its chips; it is
# not published for v4 and tpu7x, which have v5p's and v6e's here.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            hbm_bytes=30.75 * _GIB,
            flops=275e12,
            hbm_bandwidth=1228e9,
            ici_bandwidth=2400e9 / _BITS,
            dcn_bandwidth=50e9 / _BITS,
            slice_shapes=_CUBES,
            cores_per_chip=2,
            options=(("chip_config_name", "megacore"), ("chips_per_host_bounds", (2, 2, 1))),
        ),
        Chip(
            name="v5e",
            hbm_bytes=15.75 * _GIB,
            flops=197e12,
            hbm_bandwidth=819e9,
            ici_bandwidth=1600e9 / _BITS,
            dcn_bandwidth=25e9 / _BITS,
            slice_shapes=_FLAT,
        ),
        Chip(
            name="v5p",
            hbm_bytes=95.73 * _GIB,
            flops=459e12,
            hbm_bandwidth=2765e9,
            ici_bandwidth=4800e9 / _BITS,
            dcn_bandwidth=50e9 / _BITS,
            slice_shapes=_CUBES,
            cores_per_chip=2,
        ),
        Chip(
            name="v6e",
            hbm_bytes=31.24 * _GIB,
            flops=918e12,
            hbm_bandwidth=1640e9,
            ici_bandwidth=3584e9 / _BITS,
            dcn_bandwidth=100e9 / _BITS,
            slice_shapes=_FLAT,
        ),
        Chip(
            name="tpu7x",
            hbm_bytes=94.74 * _GIB,
            flops=2307e12 / 2,
            hbm_bandwidth=7380e9 / 2,
            ici_bandwidth=4800e9 / _BITS / 2,
            dcn_bandwidth=100e9 / _BITS / 2,
            slice_shapes=_CUBES,
            devices_per_chip=2,
            cores_per_chip=2,
        ),
    )
}
