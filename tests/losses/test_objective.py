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


def torch_step_grpo(logp, mask, advantage, old_logp, ref_logp, weight, settings):
    """The formulas row by row and token by token; value and gradient in float64."""
    s = {
        "beta": 0.04,
        "epsilon": 0.2,
        "loss_type": "grpo",
        "level": "token",
        "correct": False,
        "delta": None,
    } | settings
    high = s.get("epsilon_high", s["epsilon"])
    logp = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    old_logp = logp.detach() if old_logp is None else torch.tensor(old_logp, dtype=torch.float64)
    advantage = np.broadcast_to(advantage.reshape(len(mask), -1), mask.shape)
    rows = []
    for i in range(len(mask)):
        inside = [t for t in range(mask.shape[1]) if mask[i, t]]
        log_ratios = {t: logp[i, t] - old_logp[i, t] for t in inside}
        if s["level"] == "sequence":
            log_ratios = {t: sum(log_ratios.values()) / len(inside) for t in inside}
        terms = []
        for t in inside:
            ratio, a, lp = torch.exp(log_ratios[t]), float(advantage[i, t]), logp[i, t]
            if s["loss_type"] == "cispo":
                term = -min(ratio.item(), high) * a * lp
            else:
                bounded = ratio if s["delta"] is None else torch.clamp(ratio, max=s["delta"])
                term = -torch.minimum(bounded * a, torch.clamp(ratio, 1 - s["epsilon"], 1 + high) * a)
            if weight is not None:
                term = term * float(weight[i, t])
            d = float(ref_logp[i, t]) - lp
            kl = torch.exp(d) - d - 1
            terms.append(term + s["beta"] * (kl * ratio if s["correct"] else kl))
        rows.append(terms)
    zero = torch.zeros((), dtype=torch.float64)
    total = sum((sum(terms, zero) for terms in rows), zero)
    loss = {
        "grpo": sum((sum(terms, zero) / max(len(terms), 1) for terms in rows), zero) / len(rows),
        "dr_grpo": total / (len(rows) * s.get("max_completion_length", 1)),
    }.get(s["loss_type"], total / max(mask.sum(), 1))
    loss.backward()
    return loss.item(), logp.grad.numpy()


SETTINGS = {
    "step_grpo": {},
    "no KL": {"beta": 0.0},
    "two bounds, delta": {"epsilon_high": 0.1, "delta": 1.3},
    "corrected KL": {"correct": True, "beta": 0.5},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 9},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "gspo": {"level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04, "beta": 0.0},
    "sequence, corrected, delta": {"level": "sequence", "correct": True, "delta": 1.05, "epsilon": 0.01},
    "cispo of sequences": {"loss_type": "cispo", "level": "sequence", "epsilon_high": 1.01},
}
TRL_NAMES = {"level": "importance_sampling_level", "correct": "use_bias_correction_kl"}


def ours(settings):
    return {TRL_NAMES.get(name, name): value for name, value in settings.items()}


def random_batch(seed):
    """Ragged rows, the last one empty; advantages and weights by token."""
    rng = np.random.default_rng(seed)
    mask = np.arange(7)[None] < np.append(rng.integers(1, 8, 5), 0)[:, None]
    logp, weight = -rng.uniform(0.1, 3.0, mask.shape), rng.uniform(0.1, 3.0, mask.shape)
    old_logp, ref_logp = (logp + rng.normal(0, sigma, mask.shape) for sigma in (0.3, 0.5))
    arrays = (logp, old_logp, ref_logp, weight, rng.normal(size=mask.shape))
    return mask, *(array.astype(np.float32) for array in arrays)


@pytest.mark.parametrize(
    ("is_on_policy", "is_weighted"), [(True, False), (False, True)], ids=["on-policy", "off-policy, weighted by token"]
)
@pytest.mark.parametrize("name", SETTINGS)
def test_value_and_gradient_are_those_of_torch(name, is_on_policy, is_weighted):
    mask, logp, old_logp, ref_logp, weight, advantage = random_batch(seed=sorted(SETTINGS).index(name))
    old_logp = None if is_on_policy else old_logp
    advantage, weight = (advantage, weight) if is_weighted else (advantage[:, 0], None)

    def loss(logp):
        arrays = {"old_logp_BT": old_logp, "ref_logp_BT": ref_logp, "weight_BT": weight}
        return losses.step_grpo(logp, mask, advantage, **arrays, **ours(SETTINGS[name]))[0]

    value, gradient = jax.value_and_grad(loss)(logp)
    expected = torch_step_grpo(logp, mask, advantage, old_logp, ref_logp, weight, SETTINGS[name])
    np.testing.assert_allclose(value, expected[0], atol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-5)
    assert np.linalg.norm(expected[1]) > 1e-3  # not every token is clipped


def test_on_policy_ignores_epsilon_and_gives_the_plain_policy_gradient(batch):
    logp, _, _, advantage = batch
    gradient = jax.grad(lambda x: losses.step_grpo(x, MASK, advantage, beta=0.0)[0])(logp)
    length = np.maximum(MASK.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(gradient, np.where(MASK, -advantage[:, None] / length / 4, 0.0), atol=1e-6)


def test_on_policy_the_gradient_does_not_depend_on_epsilon(batch):
    """At a ratio of 1 a clip with epsilon 0 would split the gradient between the branches of `min`."""

    logp, _, _, advantage = batch

    def gradient(epsilon):
        return jax.grad(lambda x: losses.step_grpo(x, MASK, advantage, beta=0.0, epsilon=epsilon)[0])(logp)

    np.testing.assert_array_equal(gradient(0.2), gradient(0.0))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_values_outside_the_mask_are_ignored(batch, level):
    logp, old_logp, ref_logp, advantage = batch
    arrays = (logp, old_logp, ref_logp, np.tile(advantage[:, None], (1, 5)), np.ones(MASK.shape, np.float32))

    def loss(logp, old_logp, ref_logp, advantage, weight):
        given = {"old_logp_BT": old_logp, "ref_logp_BT": ref_logp, "weight_BT": weight}
        return losses.step_grpo(logp, MASK, advantage, **given, importance_sampling_level=level, epsilon=1.0)

    (clean, clean_metrics), _ = jax.value_and_grad(loss, has_aux=True)(*arrays)
    for junk in (np.nan, np.inf, -np.inf, 1e30):
        corrupted = [np.where(MASK, array, np.float32(junk)) for array in arrays]
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(*corrupted)
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


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"])
def test_micro_batches_and_eight_devices_change_nothing(loss_type):
    mask, logp, old_logp, ref_logp, weight, advantage = (np.tile(array, (4, 1)) for array in random_batch(seed=3))
    settings = {"loss_type": loss_type, "epsilon_high": 1.2, "max_completion_length": 9}
    denominator = losses.denominator(mask, loss_type=loss_type, max_completion_length=9)

    def loss(logp, mask, advantage, old_logp, ref_logp, weight):
        arrays = {"old_logp_BT": old_logp, "ref_logp_BT": ref_logp, "weight_BT": weight}
        return losses.step_grpo(logp, mask, advantage, **arrays, **settings, denominator=denominator)[0]

    arrays = (logp, mask, advantage, old_logp, ref_logp, weight)
    whole, gradient = jax.value_and_grad(loss)(*arrays)
    np.testing.assert_allclose(
        whole,
        losses.step_grpo(
            logp, mask, advantage, old_logp_BT=old_logp, ref_logp_BT=ref_logp, weight_BT=weight, **settings
        )[0],
        rtol=1e-6,
    )

    for start, stop in ((0, 12), (12, 24)):
        part = [array[start:stop] for array in arrays]
        value, part_gradient = jax.value_and_grad(loss)(*part)
        whole -= value
        np.testing.assert_allclose(part_gradient, gradient[start:stop], atol=1e-7)
    np.testing.assert_allclose(whole, 0.0, atol=1e-6)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(arrays, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    sharded = jax.jit(jax.grad(loss))(*rows)
    np.testing.assert_allclose(np.linalg.norm(sharded - gradient), 0.0, atol=1e-5 * np.linalg.norm(gradient))


@pytest.mark.parametrize(
    ("loss_type", "expected"), [("grpo", 4), ("bnpo", 9), ("dr_grpo", 24), ("dapo", 9), ("cispo", 9)]
)
def test_denominators(loss_type, expected):
    assert losses.denominator(MASK, loss_type=loss_type, max_completion_length=6) == expected
    if loss_type not in ("grpo", "dr_grpo"):
        assert losses.denominator(np.zeros_like(MASK), loss_type=loss_type, max_completion_length=6) == 1


def test_kl_metric_is_the_mean_per_token(batch):
    logp, _, ref_logp, advantage = batch
    difference = (ref_logp - logp)[MASK].astype(np.float64)
    for beta in (0.0, 0.04):
        _, metrics = losses.step_grpo(logp, MASK, advantage, ref_logp_BT=ref_logp, beta=beta)
        np.testing.assert_allclose(metrics["kl"], np.mean(np.exp(difference) - difference - 1), rtol=1e-5)


def test_metrics_depend_on_the_given_log_probabilities(batch):
    logp, old_logp, _, advantage = batch
    assert losses.step_grpo(logp, MASK, advantage, beta=0.0)[1] == {}
    metrics = losses.step_grpo(logp, MASK, advantage, old_logp_BT=old_logp, beta=0.0)[1]
    assert all(name.startswith("clip_ratio/") for name in metrics)


def test_beta_without_a_reference_is_refused(batch):
    logp, _, _, advantage = batch
    with pytest.raises(ValueError, match=r"beta=0.04 .* ref_logp_BT is None; .* set beta=0"):
        losses.step_grpo(logp, MASK, advantage)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"loss_type": "ppo"}, r"loss_type='ppo': expected one of \('grpo', 'bnpo', 'dr_grpo', 'dapo', 'cispo'\)"),
        ({"loss_type": "cispo"}, "loss_type='cispo' needs epsilon_high, .* but it is None; set 5.0"),
        ({"loss_type": "dr_grpo"}, "divides by rows \\* max_completion_length, but max_completion_length is None"),
        (
            {"importance_sampling_level": "row"},
            r"importance_sampling_level='row': expected one of \('token', 'sequence'\)",
        ),
    ],
)
def test_invalid_settings_are_refused(batch, settings, text):
    logp, _, _, advantage = batch
    with pytest.raises(ValueError, match=text):
        losses.step_grpo(logp, MASK, advantage, beta=0.0, **settings)


def test_supervised_is_cross_entropy_over_tokens():
    logits = torch.randn(4, 5, 7, generator=torch.manual_seed(0))
    target = torch.randint(0, 7, (4, 5), generator=torch.manual_seed(1))
    labels = torch.where(torch.tensor(MASK), target, -100)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    logp = torch.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0].numpy()
    corrupted = np.where(MASK, logp, np.nan)

    (loss, metrics), gradient = jax.value_and_grad(losses.supervised, has_aux=True)(jnp.asarray(corrupted), MASK)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["perplexity"], np.exp(expected), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.where(MASK, -1 / 9, 0.0), rtol=1e-6)

    parts = [losses.supervised(logp[rows], MASK[rows], denominator=9)[0] for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-6)
