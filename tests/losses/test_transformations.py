"""Public functions give the same numbers under `jit`, `vmap` and sharding."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from r1vl_jax import losses, rewards
from r1vl_jax.rewards.text import Vocabulary

P, G, T, D, V, J = 8, 2, 5, 4, 11, 3
B = P * G
RNG = np.random.default_rng(0)
LENGTH_B = RNG.integers(1, T + 1, B)
MASK_BT = np.arange(T)[None] < LENGTH_B[:, None]
LOGP_BT, OLD_BT, REF_BT = (RNG.normal(-1, 0.3, (B, T)).astype(np.float32) for _ in range(3))
TOKEN_BT = RNG.integers(0, V, (B, T))
REWARD_BJ = RNG.normal(size=(B, J)).astype(np.float32)
HEAD_DV = RNG.normal(size=(D, V)).astype(np.float32)
VOCABULARY = Vocabulary(np.cumsum([0, *range(V)]), RNG.integers(0, 255, V * (V - 1) // 2).astype(np.uint8))


def loss_of(logp, mask, advantage, old, ref):
    return losses.step_grpo(logp, mask, advantage, old_logp_BT=old, ref_logp_BT=ref)[0]


# name -> function, arguments whose first axis is that of rows or prompts
CASES = {
    "group_advantage": (losses.group_advantage, (REWARD_BJ[:, 0].reshape(P, G),)),
    "step_advantage": (
        partial(losses.step_advantage, num_generations=G),
        (REWARD_BJ, RNG.integers(0, J, (B, T)), np.full(B, J)),
    ),
    "section_of_token": (losses.section_of_token, (np.tile([3, 6, 9], (B, 1)), np.full((B, T), 2))),
    "egsw_weight": (
        partial(losses.egsw_weight, num_generations=G, entropy_weight=0.5, temperature=1.0, level="step"),
        (REWARD_BJ[:, 0], np.abs(LOGP_BT), MASK_BT),
    ),
    "step_grpo": (loss_of, (LOGP_BT, MASK_BT, REWARD_BJ[:, 0], OLD_BT, REF_BT)),
    "gradient of step_grpo": (jax.grad(loss_of), (LOGP_BT, MASK_BT, REWARD_BJ[:, 0], OLD_BT, REF_BT)),
    "supervised": (lambda logp, mask: losses.supervised(logp, mask)[0], (LOGP_BT, MASK_BT)),
    "token_logp": (
        lambda hidden, target: losses.token_logp(hidden, HEAD_DV, target, chunk_size=8),
        (RNG.normal(size=(B, T, D)).astype(np.float32), TOKEN_BT),
    ),
    "mask_truncated": (losses.mask_truncated, (MASK_BT, LENGTH_B < T)),
    "soft_overlong_penalty": (
        partial(losses.soft_overlong_penalty, max_completion_length=T, soft_punish_cache=3),
        (LENGTH_B,),
    ),
    "token_bytes": (
        lambda token, mask: rewards.text.token_bytes(token, mask, VOCABULARY, max_bytes=32),
        (TOKEN_BT, MASK_BT),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_jit_vmap_and_sharding(name):
    function, arguments = CASES[name]
    expected = function(*arguments)
    same = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6))
    same(jax.jit(function)(*arguments), expected)

    mapped = jax.vmap(function)(*(np.stack([argument, argument[::-1]]) for argument in arguments))
    same(jax.tree.map(lambda leaf: leaf[0], mapped), expected)
    same(jax.tree.map(lambda leaf: leaf[1], mapped), function(*(argument[::-1] for argument in arguments)))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(arguments, NamedSharding(mesh, PartitionSpec("data")))
    same(jax.jit(function)(*sharded), expected)
