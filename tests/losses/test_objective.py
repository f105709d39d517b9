"""The objectives against an independent computation in torch, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from r1vl_jax import losses

# Ragged: full, part, one token, none.
MASK = np.arange(5)[None] < np.array([5, 3, 1, 0])[:, None]


@pytest.fixture
def batch():
    """Log-probabilities of policy, sampling policy and reference, and advantages by row."""
    rng = np.random.default_rng(0)
    logp = -rng.uniform(0.1, 3.0, MASK.shape).astype(np.float32)
    old_logp = (logp + rng.normal(0, 0.3, MASK.shape)).astype(np.float32)
    ref_logp = (logp + rng.normal(0, 0.5, MASK.shape)).astype(np.float32)
    return logp, old_logp, ref_logp, rng.normal(size=4).astype(np.float32)


def torch_step_grpo(logp, mask, advantage, old_logp, ref_logp, beta, epsilon, epsilon_high):
    """Row by row and token by token, as the formula is read aloud."""
    logp = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    rows = []
    for i, length in enumerate(mask.sum(1)):
        terms = []
        for t in range(length):
            old = logp[i, t].detach() if old_logp is None else torch.tensor(old_logp[i, t], dtype=torch.float64)
            ratio = torch.exp(logp[i, t] - old)
            a = float(np.broadcast_to(advantage.reshape(4, -1), mask.shape)[i, t])
            term = torch.minimum(ratio * a, torch.clamp(ratio, 1 - epsilon, 1 + epsilon_high) * a)
            if beta:
                d = float(ref_logp[i, t]) - logp[i, t]
                term = term - beta * (torch.exp(d) - d - 1)
            terms.append(term)
        rows.append(torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.float64))
    loss = -torch.stack(rows).mean()
    loss.backward()
    return loss.item(), logp.grad.numpy()


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("is_on_policy", [True, False])
@pytest.mark.parametrize("is_per_token", [True, False])
def test_step_grpo_is_that_of_torch(batch, beta, is_on_policy, is_per_token):
    logp, old_logp, ref_logp, advantage = batch
    old_logp = None if is_on_policy else old_logp
    if is_per_token:
        advantage = np.random.default_rng(1).normal(size=MASK.shape).astype(np.float32)

    def loss(logp):
        return losses.step_grpo(
            logp,
            MASK,
            advantage,
            old_logp_BT=old_logp,
            ref_logp_BT=ref_logp,
            beta=beta,
            epsilon=0.2,
            epsilon_high=0.28,
        )

    (value, _), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logp)
    wanted_value, wanted_gradient = torch_step_grpo(logp, MASK, advantage, old_logp, ref_logp, beta, 0.2, 0.28)
    np.testing.assert_allclose(value, wanted_value, atol=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-5)


def test_on_policy_ignores_epsilon_and_gives_the_plain_policy_gradient(batch):
    logp, _, _, advantage = batch
    gradient = jax.grad(lambda x: losses.step_grpo(x, MASK, advantage, beta=0.0)[0])(logp)
    length = np.maximum(MASK.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(gradient, np.where(MASK, -advantage[:, None] / length / 4, 0.0), atol=1e-6)


def test_nothing_outside_the_mask_matters(batch):
    logp, old_logp, ref_logp, advantage = batch

    def loss(logp, old_logp, ref_logp):
        return losses.step_grpo(logp, MASK, advantage, old_logp_BT=old_logp, ref_logp_BT=ref_logp)

    (clean, clean_metrics), _ = jax.value_and_grad(loss, has_aux=True)(logp, old_logp, ref_logp)
    for junk in (np.nan, np.inf, -np.inf, 1e30):
        spoilt = [np.where(MASK, array, np.float32(junk)) for array in (logp, old_logp, ref_logp)]
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(*spoilt)
        assert value == clean
        assert metrics == clean_metrics
        assert np.count_nonzero(np.asarray(gradient)[~MASK]) == 0
        assert np.all(np.asarray(gradient)[MASK] != 0)


def test_equal_rewards_leave_only_the_gradient_of_the_kl(batch):
    logp, _, ref_logp, _ = batch
    advantage = losses.group_advantage(np.full((2, 2), 1.1, np.float32)).reshape(-1)
    gradient = jax.grad(lambda x: losses.step_grpo(x, MASK, advantage, ref_logp_BT=ref_logp, beta=0.5)[0])(logp)
    length = np.maximum(MASK.sum(1, keepdims=True), 1)
    of_kl = 0.5 * (1 - np.exp(ref_logp - logp)) / length / 4
    np.testing.assert_allclose(gradient, np.where(MASK, of_kl, 0.0), atol=1e-6)


def test_micro_batches_sum_to_the_whole(batch):
    logp, _, ref_logp, advantage = batch
    denominator = losses.denominator(MASK)

    def loss(rows):
        return losses.step_grpo(
            logp[rows], MASK[rows], advantage[rows], ref_logp_BT=ref_logp[rows], denominator=denominator
        )[0]

    whole, _ = losses.step_grpo(logp, MASK, advantage, ref_logp_BT=ref_logp)
    np.testing.assert_allclose(loss(slice(0, 1)) + loss(slice(1, 4)), whole, atol=1e-6)


def test_kl_metric_is_the_mean_per_token(batch):
    logp, _, ref_logp, advantage = batch
    difference = (ref_logp - logp)[MASK].astype(np.float64)
    for beta in (0.0, 0.04):
        _, metrics = losses.step_grpo(logp, MASK, advantage, ref_logp_BT=ref_logp, beta=beta)
        np.testing.assert_allclose(metrics["kl"], np.mean(np.exp(difference) - difference - 1), rtol=1e-5)


def test_metrics_tell_only_what_is_known(batch):
    logp, old_logp, _, advantage = batch
    assert losses.step_grpo(logp, MASK, advantage, beta=0.0)[1] == {}
    metrics = losses.step_grpo(logp, MASK, advantage, old_logp_BT=old_logp, beta=0.0)[1]
    assert all(name.startswith("clip_ratio/") for name in metrics)


def test_a_weight_without_a_reference_is_refused(batch):
    logp, _, _, advantage = batch
    with pytest.raises(ValueError, match=r"beta=0.04 .* ref_logp_BT is None; .* set beta=0"):
        losses.step_grpo(logp, MASK, advantage)


def test_supervised_is_cross_entropy_over_tokens():
    logits = torch.randn(4, 5, 7, generator=torch.manual_seed(0))
    target = torch.randint(0, 7, (4, 5), generator=torch.manual_seed(1))
    labels = torch.where(torch.tensor(MASK), target, -100)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    logp = torch.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0].numpy()
    spoilt = np.where(MASK, logp, np.nan)

    (loss, metrics), gradient = jax.value_and_grad(losses.supervised, has_aux=True)(jnp.asarray(spoilt), MASK)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    np.testing.assert_allclose(metrics["perplexity"], np.exp(wanted), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.where(MASK, -1 / 9, 0.0), rtol=1e-6)

    parts = [losses.supervised(logp[rows], MASK[rows], denominator=9)[0] for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(sum(parts), wanted, rtol=1e-6)
