"""The bfloat16 error of log-probabilities is no larger than that of transformers."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
import torch
from helpers.twins import Twins, make_inputs, make_twins, to_torch

INPUTS = make_inputs(
    [[(1, 4, 6)], [(1, 4, 2), (1, 2, 6)], [], [(1, 4, 4)], [(1, 8, 4)], [(1, 2, 2)], [(1, 6, 6), (1, 2, 4)], []]
)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("twins"), tie_word_embeddings=False)


def logp(logits_BTV: np.ndarray) -> np.ndarray:
    """Log-probabilities of the whole vocabulary at real positions."""
    return np.asarray(jax.nn.log_softmax(logits_BTV.astype(np.float32)))[INPUTS["attention_mask"] != 0]


def test_error_against_float32_is_no_larger_than_that_of_transformers(twins: Twins):
    in_bfloat16 = copy.deepcopy(twins.torch_model).to(torch.bfloat16)
    with torch.no_grad():
        expected = logp(twins.torch_model(**to_torch(INPUTS)).logits.numpy())
        transformers_error = np.abs(logp(in_bfloat16(**to_torch(INPUTS)).logits.float().numpy()) - expected)
    definition = dataclasses.replace(twins.ours.definition, dtype="bfloat16")
    our_error = np.abs(logp(np.asarray(dataclasses.replace(twins.ours, definition=definition)(**INPUTS))) - expected)
    statistics = {"mean": np.mean, "p99": lambda error: np.quantile(error, 0.99), "max": np.max}
    print(f"{expected.size} log-probabilities: |bfloat16 - float32| in nats")
    for name, statistic in statistics.items():
        print(f"{name:5} ours {statistic(our_error):.4f}   transformers {statistic(transformers_error):.4f}")
        assert statistic(our_error) <= statistic(transformers_error)
    assert our_error.mean() > 1e-4, "this was not computed in bfloat16"
