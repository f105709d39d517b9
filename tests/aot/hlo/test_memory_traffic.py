"""HBM traffic of programs compiled here and of lines as the TPU compiler writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.hlo_texts import LOOP_LINES, SLICE_LINES

from r1vl_jax.aot.hlo.memory_traffic import memory_traffic
from r1vl_jax.aot.hlo.parse import parse_hlo


def test_a_transfer_of_hosts_reads_and_writes_once():
    assert memory_traffic(parse_hlo(SLICE_LINES)) == pytest.approx(2 * 256 * 1024 * 4, rel=1e-4)


def test_a_prefetch_in_a_loop_counts_once_per_iteration():
    """A slice of a matrix is read into on-chip memory; the loop counter is unsigned here."""
    assert memory_traffic(parse_hlo(LOOP_LINES)) == 8 * 16 * 128 * 2


def test_a_scan_reads_one_layer_of_the_stack_per_step():
    def last(x, stack):
        return jax.lax.scan(lambda x, weight: (x @ weight, None), x, stack)[0]

    size = 256
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, size), (16, size, size))]
    traffic = memory_traffic(parse_hlo(jax.jit(last).lower(*shapes).compile().as_text()))
    stack = 16 * size * size * 4
    assert stack < traffic < 5 * stack  # slicing and reading each matrix once; 16 times if each step read the stack
    np.testing.assert_allclose(traffic, 3 * stack, rtol=0.2)
