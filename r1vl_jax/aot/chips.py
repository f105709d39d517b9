"""The TPU generations that programs can be compiled for, with the published figures of one device."""

from dataclasses import dataclass

_GIB = 2**30
_BITS = 8


@dataclass(frozen=True)
class Chip:
    """One device as JAX shows it: a whole chip, or on tpu7x one of the two halves of a chip.

    Attributes:
        name: as in the names of topologies.
        memory_bytes: what the compiler lets a program have; a little less than the chip has.
        flops: bfloat16 operations a second, at best.
        memory_bandwidth: of its HBM, bytes a second.
        network_bandwidth: bytes a second that one device sends to others of its slice, over all its links.
        slow_bandwidth: the same to devices of other slices, over the data center's network.
        devices_per_chip: 2 where JAX shows every chip as two devices.
        slices: the usual shapes of a slice, from the smallest on.
        cores_in_name: TensorCores that count as one chip in names such as "v5p-128", which has 64 chips.
        options: what `jax.experimental.topologies` has to be told beside the shape.
    """

    name: str
    memory_bytes: float
    flops: float
    memory_bandwidth: float
    network_bandwidth: float
    slow_bandwidth: float
    slices: tuple[str, ...]
    devices_per_chip: int = 1
    cores_in_name: int = 1
    options: tuple[tuple[str, object], ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

# Memory: "available HBM" in the compiler's own refusals (libtpu 0.0.52). All else: the tables of
# https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x, read in 2026. Bandwidth between chips is what one
# sends: half of the bidirectional one. That between slices is of a host's network cards, divided by its chips; it is
# not published for v4 and tpu7x, which have v5p's and v6e's here.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            memory_bytes=30.75 * _GIB,
            flops=275e12,
            memory_bandwidth=1228e9,
            network_bandwidth=2400e9 / _BITS,
            slow_bandwidth=50e9 / _BITS,
            slices=_CUBES,
            cores_in_name=2,
            options=(("chip_config_name", "megacore"), ("chips_per_host_bounds", (2, 2, 1))),
        ),
        Chip(
            name="v5e",
            memory_bytes=15.75 * _GIB,
            flops=197e12,
            memory_bandwidth=819e9,
            network_bandwidth=1600e9 / _BITS,
            slow_bandwidth=25e9 / _BITS,
            slices=_FLAT,
        ),
        Chip(
            name="v5p",
            memory_bytes=95.73 * _GIB,
            flops=459e12,
            memory_bandwidth=2765e9,
            network_bandwidth=4800e9 / _BITS,
            slow_bandwidth=50e9 / _BITS,
            slices=_CUBES,
            cores_in_name=2,
        ),
        Chip(
            name="v6e",
            memory_bytes=31.24 * _GIB,
            flops=918e12,
            memory_bandwidth=1640e9,
            network_bandwidth=3584e9 / _BITS,
            slow_bandwidth=100e9 / _BITS,
            slices=_FLAT,
        ),
        Chip(
            name="tpu7x",
            memory_bytes=94.74 * _GIB,
            flops=2307e12 / 2,
            memory_bandwidth=7380e9 / 2,
            network_bandwidth=4800e9 / _BITS / 2,
            slow_bandwidth=100e9 / _BITS / 2,
            slices=_CUBES,
            devices_per_chip=2,
            cores_in_name=2,
        ),
    )
}
