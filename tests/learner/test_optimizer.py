"""Schedules by their corners, updates by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1vl_jax.config import Optim
from r1vl_jax.learner import optimizer

PARAMS = {
    "text": {
        "embed_tokens": {"embedding": jnp.ones((5, 4))},
        "layers": {"q_proj": {"kernel": jnp.ones((2, 4, 4)), "bias": jnp.ones((2, 2, 2))}, "norm": jnp.ones((2, 4))},
        "norm": {"scale": jnp.ones(4)},
    },
    "visual": {"patch_embed": {"kernel": jnp.ones((6, 4))}, "blocks": {"norm": jnp.ones((3, 4))}},
    "lm_head": {"kernel": jnp.ones((4, 5))},
}


def settings(**changes) -> Optim:
    return dataclasses.replace(Optim(learning_rate=2.0), **changes)


@pytest.mark.parametrize(
    ("kind", "warmup_ratio", "step", "rate"),
    [
        ("linear", 0.0, 0, 2.0),
        ("linear", 0.0, 50, 1.0),
        ("linear", 0.0, 100, 0.0),
        ("linear", 0.2, 0, 0.0),
        ("linear", 0.2, 10, 1.0),
        ("linear", 0.2, 20, 2.0),
        ("linear", 0.2, 60, 1.0),
        ("linear", 0.2, 100, 0.0),
        ("cosine", 0.0, 0, 2.0),
        ("cosine", 0.2, 40, 1.0 + np.cos(np.pi / 4)),
        ("cosine", 0.2, 60, 1.0),
        ("cosine", 0.2, 100, 0.0),
        ("constant", 0.2, 10, 1.0),
        ("constant", 0.2, 100, 2.0),
        ("linear", 1.0, 50, 1.0),
    ],
)
def test_schedule(kind, warmup_ratio, step, rate):
    schedule = optimizer.schedule(settings(lr_scheduler_type=kind, warmup_ratio=warmup_ratio), max_steps=100)
    np.testing.assert_allclose(schedule(step), rate, atol=1e-6)


def test_a_part_of_a_step_of_warmup_is_a_step():
    schedule = optimizer.schedule(settings(warmup_ratio=0.03), max_steps=50)
    np.testing.assert_allclose([schedule(0), schedule(1), schedule(2)], [0.0, 1.0, 2.0])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="lr_scheduler_type='step'.*'linear', 'cosine' or 'constant'"):
        optimizer.schedule(settings(lr_scheduler_type="step"), max_steps=10)


def test_only_matrices_decay():
    assert optimizer.decay_mask(PARAMS) == {
        "text": {
            "embed_tokens": {"embedding": False},
            "layers": {"q_proj": {"kernel": True, "bias": False}, "norm": False},
            "norm": {"scale": False},
        },
        "visual": {"patch_embed": {"kernel": True}, "blocks": {"norm": False}},
        "lm_head": {"kernel": True},
    }


def test_decay_pulls_what_the_mask_says():
    transformation = optimizer.optimizer(settings(learning_rate=0.1, weight_decay=0.5), 10, PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = transformation.update(zeros, transformation.init(PARAMS), PARAMS)
    wanted = jax.tree.map(lambda decays: -0.05 if decays else 0.0, optimizer.decay_mask(PARAMS))
    jax.tree.map(
        lambda update, value: np.testing.assert_allclose(update, np.full(update.shape, value)), updates, wanted
    )


def test_two_updates_are_adam_by_hand():
    params, gradients = {"w": jnp.array([1.0])}, [3.0, -0.5]
    transformation = optimizer.optimizer(settings(learning_rate=0.1, max_grad_norm=1.0), 4, params)
    state, m, v, expected = transformation.init(params), 0.0, 0.0, 1.0
    for count, gradient in enumerate(gradients, start=1):
        updates, state = transformation.update({"w": jnp.array([gradient])}, state, params)
        params = optax.apply_updates(params, updates)
        clipped = min(gradient, 1.0)
        m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped**2
        rate = 0.1 * (1 - (count - 1) / 4)
        expected -= rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
    np.testing.assert_allclose(params["w"], [expected], rtol=1e-5)


def test_only_shapes_are_needed():
    shapes = jax.eval_shape(lambda: PARAMS)
    state = jax.eval_shape(optimizer.optimizer(settings(), 10, shapes).init, shapes)
    assert jax.tree.leaves(state)


def test_clipping_is_that_of_optax():
    gradient = {"w": jnp.arange(12.0).reshape(3, 4), "b": -jnp.ones(4)}
    for max_norm in (0.5, 1e3):
        actual, _ = optimizer.clip_by_global_norm_on_cpu(max_norm).update(gradient, optax.EmptyState())
        expected, _ = optax.clip_by_global_norm(max_norm).update(gradient, optax.EmptyState())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)
    zero, _ = optimizer.clip_by_global_norm_on_cpu(1.0).update(
        jax.tree.map(jnp.zeros_like, gradient), optax.EmptyState()
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(zero))
