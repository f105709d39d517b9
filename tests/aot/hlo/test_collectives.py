"""Collectives in programs compiled here and in lines as the TPU compiler writes them."""

import jax
import jax.numpy as jnp
import pytest
from helpers.hlo_texts import KERNEL_LINES, LAYERS, SLICE_LINES, TPU_LINES, WIDTH, compiled_scan
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from r1vl_jax import config
from r1vl_jax.aot import topologies
from r1vl_jax.aot.hlo.collectives import find_collectives
from r1vl_jax.aot.hlo.parse import parse_hlo
from r1vl_jax.aot.hlo.roofline import totals_by_kind
from r1vl_jax.aot.topologies import set_up_compile_only
from r1vl_jax.sharding.mesh import make_mesh


def test_collectives_are_counted_as_often_as_they_run():
    module = parse_hlo(compiled_scan().as_text())
    kinds = totals_by_kind(find_collectives(module, [0] * 8))
    assert kinds == {
        "all-gather": {"count": LAYERS, "bytes": pytest.approx(LAYERS * WIDTH * WIDTH * 4 * 7 / 8)},
        "all-reduce": {"count": 1, "bytes": pytest.approx(4 * WIDTH * 4 * 2 * 7 / 8)},
    }


def test_collectives_between_slices_are_counted_apart():
    module = parse_hlo(compiled_scan().as_text())
    kinds = totals_by_kind(find_collectives(module, [0] * 4 + [1] * 4))
    assert set(kinds) == {"all-gather between slices", "all-reduce between slices"}


def test_lines_of_the_tpu_compiler():
    """An all-gather split over two fusions counts once; the compiler's `all-reduce-scatter` is a reduce-scatter."""
    kinds = totals_by_kind(find_collectives(parse_hlo(TPU_LINES), [0, 0, 0, 0, 1, 1, 1, 1]))
    full = 8 * 64 * 2
    assert kinds == {
        "all-gather": {"count": 1, "bytes": pytest.approx(full * 3 / 4)},
        "reduce-scatter between slices": {"count": 1, "bytes": pytest.approx(full / 2)},
        "collective-permute between slices": {"count": 1, "bytes": pytest.approx(full / 4)},
    }


@pytest.mark.parametrize(
    ("kind", "share"), [("ALL_REDUCE", 1.5), ("ALL_GATHER", 0.75), ("REDUCE_SCATTER", 3), ("ONE_TO_ONE", 1)]
)
def test_transfers_of_hosts_between_slices_are_counted(kind, share):
    """Four slices: each receives three quarters of an array, and twice that in an all-reduce."""
    module = parse_hlo(SLICE_LINES.replace("ALL_REDUCE", kind))
    kinds = totals_by_kind(find_collectives(module, [0, 0, 1, 1, 2, 2, 3, 3]))
    name = f"{kind.lower().replace('_', '-').replace('one-to-one', 'collective-permute')} between slices"
    assert kinds == {name: {"count": 1, "bytes": pytest.approx(share * 256 * 1024 * 4)}}


def test_instructions_after_a_kernel_are_parsed():
    """The compiler writes a kernel's settings on lines of their own, one of which starts with braces."""
    assert totals_by_kind(find_collectives(parse_hlo(KERNEL_LINES), [0] * 4))["all-gather"]["count"] == 1


def test_a_gradient_over_two_slices_compiled_for_tpus():
    """Reduce-scatter within the slice, then all-reduce of a quarter of the gradient between slices."""
    pytest.importorskip("libtpu")
    set_up_compile_only()
    mesh = make_mesh(config.Mesh(data=2, fsdp=4), topologies.parse_topology("v5e:2x2", 2).devices())
    weight, x = (
        jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=NamedSharding(mesh, spec))
        for spec in (Spec("fsdp"), Spec(("data", "fsdp")))
    )
    gradient = jax.jit(jax.grad(lambda weight, x: jnp.sum(jnp.tanh(x @ weight))), out_shardings=weight.sharding)
    module = parse_hlo(gradient.lower(weight, x).compile().as_text())
    kinds = totals_by_kind(find_collectives(module, [device.slice_index for device in mesh.devices.flat]))
    assert set(kinds) == {"all-gather", "reduce-scatter", "all-reduce between slices"}
    assert kinds["all-reduce between slices"] == {"count": 1, "bytes": 1024 * 1024 * 4 / 4}
