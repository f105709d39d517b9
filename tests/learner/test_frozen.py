"""Updates of a part of the parameters: its gradient is the whole one's, and nothing else is computed or kept."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, make_adapter, make_params, make_train_batch

from r1vl_jax.config import Loss, Model
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.trainable import cast_frozen, combine, partition

ADAPTED = dataclasses.replace(DEFINITION, lora=LoRA(2, 4.0, ("q_proj", "down_proj", "qkv", "mlp_2")))
LEARNER = Learner(DEFINITION, optax.sgd(0.1), chunk_size=64, loss=Loss(beta=0.0))
ON_ADAPTER = dataclasses.replace(LEARNER, definition=ADAPTED)
TOWER, LANGUAGE_MODEL = Model(freeze_vision_tower=True), Model(freeze_language_model=True)
TOWER_AND_MERGER = Model(freeze_vision_tower=True, freeze_merger=True)


@pytest.fixture(scope="module")
def params():
    return make_params(scale=0.5)


def plain_gradient(learner, params, batch):
    """Of the StepGRPO loss without KL, by all parameters."""

    def loss(params):
        logp, _ = compute_logps(learner, params, batch.prompts, batch.rows.completions)
        mask = batch.rows.completions.mask_BT
        return -jnp.mean(jnp.sum(logp * mask * batch.rows.advantage_BT, 1) / mask.sum(1))

    return jax.grad(loss)(params)


def updated(learner, trained, frozen, batch):
    return step_grpo_step(learner, learner.init(jax.tree.map(jnp.array, trained)), frozen, batch)[0]


def assert_moved_down(state, trained, gradient):
    """The state is one step of 0.1 down the gradient, to 1e-4 of each parameter's largest step."""

    def compare(new, old, slope):
        assert np.abs(slope).max() > 0
        np.testing.assert_allclose((old - new) / 0.1, slope, rtol=1e-3, atol=2e-4 * np.abs(slope).max())

    jax.tree.map(compare, state.params, trained, gradient)


@pytest.mark.parametrize("settings", [TOWER_AND_MERGER, TOWER, LANGUAGE_MODEL])
def test_an_update_of_parts(params, settings):
    batch = make_train_batch()
    trained, frozen = partition(params, settings)
    state = updated(LEARNER, trained, frozen, batch)
    assert_moved_down(state, trained, partition(plain_gradient(LEARNER, params, batch), settings)[0])
    jax.tree.map(np.asarray, frozen)  # not donated


def test_an_update_of_an_adapter(params):
    batch, adapter = make_train_batch(), make_adapter(ADAPTED)
    learner = dataclasses.replace(ON_ADAPTER, micro_batches=2)
    gradient, _ = partition(plain_gradient(ON_ADAPTER, combine(adapter, params), batch), Model(lora_r=2))
    assert_moved_down(updated(learner, adapter, params, batch), adapter, gradient)


def test_optimizer_state_and_updates_are_of_the_adapter_alone(params):
    adapter = make_adapter(ADAPTED)
    learner = dataclasses.replace(ON_ADAPTER, optimizer=optax.adam(1e-3))
    state = learner.init(adapter)
    num_values = sum(leaf.size for leaf in jax.tree.leaves(adapter))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 3 * num_values + 3  # moments; step, count, num_skipped
    after, _ = jax.eval_shape(
        lambda state, batch: step_grpo_step(learner, state, params, batch), state, make_train_batch()
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_the_reference_is_the_base_under_a_fresh_adapter(params):
    """Bit by bit, and with the base's own arrays: there is no second copy."""
    batch = make_train_batch()
    fresh, _ = partition(jax.jit(ADAPTED.init)(jax.random.key(3)), Model(lora_r=2))
    together = combine(fresh, params)
    assert all(any(leaf is other for other in jax.tree.leaves(together)) for leaf in jax.tree.leaves(params))
    with_adapter = compute_logps(ON_ADAPTER, together, batch.prompts, batch.rows.completions)
    without = compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)
    jax.tree.map(np.testing.assert_array_equal, with_adapter, without)


def products_in_vision(function, *args) -> int:
    """Matrix products with the tower's MLP width, 64, which the text does not have, in their result."""
    return len(re.findall(r"\[[^\]]*\b64\b[^\]]*\] = dot_general", str(jax.make_jaxpr(function)(*args))))


def test_a_frozen_tower_has_no_backward_pass(params):
    batch = make_train_batch()

    def products(settings: Model) -> int:
        trained, frozen = partition(params, settings)
        state = LEARNER.init(trained)
        return products_in_vision(lambda state, batch: step_grpo_step(LEARNER, state, frozen, batch), state, batch)

    def forward(params):
        return compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)

    assert products(TOWER_AND_MERGER) == products_in_vision(forward, params) > 0
    assert products(TOWER) < products(Model())
    assert products(Model()) > 2 * products(TOWER_AND_MERGER)


def test_a_bfloat16_base_under_a_float32_adapter(params):
    batch, adapter = make_train_batch(), make_adapter(ADAPTED, scale=0.05)
    half = dataclasses.replace(ON_ADAPTER, definition=dataclasses.replace(ADAPTED, dtype="bfloat16"))
    base = partition(cast_frozen(combine(adapter, params), Model(dtype="bfloat16", lora_r=2)), Model(lora_r=2))[1]
    state = updated(half, adapter, base, batch)
    expected = updated(ON_ADAPTER, adapter, params, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    difference, update = (
        optax.global_norm(jax.tree.map(jnp.subtract, state.params, tree)) for tree in (expected.params, adapter)
    )
    assert 0 < difference < 0.1 * update
