"""Trip counts of loops in compiled HLO."""

import jax
import jax.numpy as jnp

from r1vl_jax.aot.hlo.parse import parse_hlo


def test_the_trip_count_of_a_loop_with_an_early_exit_is_its_limit():
    def count(x):
        return jax.lax.while_loop(lambda s: (s[0] < 7) & jnp.any(s[1] > 0), lambda s: (s[0] + 1, s[1] - 1), (0, x))

    module = parse_hlo(jax.jit(count).lower(jax.ShapeDtypeStruct((16,), jnp.float32)).compile().as_text())
    (loop,) = (
        each for body in module.computations.values() for each in body.instructions.values() if each.opcode == "while"
    )
    assert module.num_trips(loop) == 7
