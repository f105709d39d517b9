"""GRPO of a plain JAX model with `r1vl_jax.losses`: it learns to count. `python tests/helpers/plain_jax_example.py`"""

import jax
import jax.numpy as jnp

from r1vl_jax import losses

NUM_TOKENS, WIDTH, LENGTH, PROMPTS, GENERATIONS = 10, 16, 8, 4, 8


def init(key):
    embedding_key, head_key = jax.random.split(key)
    return {
        "embedding_VD": jax.random.normal(embedding_key, (NUM_TOKENS, WIDTH)) / 4,
        "head_DV": jax.random.normal(head_key, (WIDTH, NUM_TOKENS)) / 4,
    }


def sample(params, first_B, key):
    """Tokens [B, LENGTH], each sampled from the logits of the one before it."""

    def step(token_B, key):
        token_B = jax.random.categorical(key, params["embedding_VD"][token_B] @ params["head_DV"])
        return token_B, token_B

    return jax.lax.scan(step, first_B, jax.random.split(key, LENGTH))[1].T


@jax.jit
def update(params, key):
    """One step: sample, reward, advantage, gradient descent."""
    first_B = jnp.repeat(jnp.arange(PROMPTS), GENERATIONS)
    token_BT = sample(params, first_B, key)
    input_BT = jnp.concatenate([first_B[:, None], token_BT[:, :-1]], axis=1)
    reward_B = jnp.mean(token_BT == (input_BT + 1) % NUM_TOKENS, axis=1)
    advantage_B = losses.group_advantage(reward_B.reshape(PROMPTS, GENERATIONS)).reshape(-1)
    mask_BT = jnp.ones(token_BT.shape, bool)

    def loss(params):
        hidden_BTD = params["embedding_VD"][input_BT]
        logp_BT, entropy_BT = losses.token_logp(hidden_BTD, params["head_DV"], token_BT, chunk_size=64)
        value, _ = losses.step_grpo(logp_BT, mask_BT, advantage_B, beta=0.0, loss_type="dapo")
        return value - 0.001 * jnp.mean(entropy_BT)

    gradient = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 2.0 * g, params, gradient), jnp.mean(reward_B)


def train(num_steps):
    """The mean reward of each step."""
    params, rewards = init(jax.random.key(0)), []
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, reward = update(params, key)
        rewards.append(float(reward))
    return rewards


if __name__ == "__main__":
    print(train(200)[::20])
