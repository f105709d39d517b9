"""Parameter stacks that a program gathers whole."""

import jax
import jax.numpy as jnp
from helpers.hlo_texts import TPU_LINES

from r1vl_jax.aot.hlo.collectives import find_collectives
from r1vl_jax.aot.hlo.parse import parse_hlo
from r1vl_jax.aot.hlo.roofline import gathered_stacks


def test_an_all_gather_of_a_whole_stack_is_found():
    collectives = find_collectives(
        parse_hlo(TPU_LINES.replace("bf16[8,64]{1,0} all-gather", "bf16[2,64,32]{0,2,1} all-gather")), [0] * 8
    )
    params = {
        "layers": {"up": jax.ShapeDtypeStruct((2, 32, 128), jnp.float32)},
        "o": jax.ShapeDtypeStruct((2, 64, 16), jnp.float32),
    }
    assert gathered_stacks(collectives, params, tensor=2) == ["layers.up"]
    assert gathered_stacks(collectives, params, tensor=1) == []
