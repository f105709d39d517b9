"""Names of topologies, and the errors for unknown names."""

import pytest

from r1vl_jax.aot.topologies import parse_topology


@pytest.mark.parametrize(
    ("name", "slices", "same", "devices"),
    [
        ("v5e:4x4", 1, "v5e:4x4", 16),
        ("v5e-16", 1, "v5e:4x4", 16),
        ("v6e-8", 1, "v6e:2x4", 8),
        ("v5p-8", 1, "v5p:2x2x1", 4),
        ("v5p-128", 1, "v5p:4x4x4", 64),
        ("v5p-256", 1, "v5p:4x4x8", 128),
        ("v4:2x2x4", 1, "v4:2x2x4", 16),
        ("tpu7x:4x4x4", 1, "tpu7x:4x4x4", 128),
        ("v6e-64", 2, "2 slices of v6e:8x8", 128),
    ],
)
def test_names(name, slices, same, devices):
    topology = parse_topology(name, slices)
    assert (topology.name, topology.num_devices) == (same, devices)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "h100-8",
            r"--topology=h100-8: expected one of v4, v5e, v5p, v6e, tpu7x, then a size, such as v5e:4x4 or v5e-16",
        ),
        ("v5e-12", r"--topology=v5e-12: expected one of v5e-1 \(v5e:1x1\), v5e-4 \(v5e:2x2\)"),
        ("v5p-4", r"--topology=v5p-4: expected one of v5p-8 \(v5p:2x2x1\)"),
        ("v5p:4x4", r"--topology=v5p:4x4: expected one of v5p-8"),
        ("v5e", r"--topology=v5e: expected one of v5e-1 "),
    ],
)
def test_unknown_names_are_rejected_with_the_known_ones(name, message):
    with pytest.raises(ValueError, match=message):
        parse_topology(name)


def test_the_next_larger_slice():
    assert parse_topology("v5e-16").next_larger() == parse_topology("v5e-32")
    assert parse_topology("v5e:3x3").next_larger() == parse_topology("v5e-16")
    assert parse_topology("v6e-256").next_larger() is None


def test_devices_without_the_hardware():
    pytest.importorskip("libtpu")
    assert len(parse_topology("v4:2x2x1").devices()) == 4
    slices = [device.slice_index for device in parse_topology("v5e:2x2", 2).devices()]
    assert sorted(slices) == [0] * 4 + [1] * 4
    with pytest.raises(RuntimeError, match=r"v5e:3x5: the TPU compiler does not know this shape, or is not there \("):
        parse_topology("v5e:3x5").devices()
