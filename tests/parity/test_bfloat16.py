"""Log-probabilities computed in bfloat16 are as near to float32 as transformers' own are."""

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


def test_no_further_from_float32_than_transformers(twins: Twins):
    half = copy.deepcopy(twins.torch_model).to(torch.bfloat16)
    with torch.no_grad():
        expected = logp(twins.torch_model(**to_torch(INPUTS)).logits.numpy())
        theirs = np.abs(logp(half(**to_torch(INPUTS)).logits.float().numpy()) - expected)
    definition = dataclasses.replace(twins.ours.definition, dtype="bfloat16")
    ours = np.abs(logp(np.asarray(dataclasses.replace(twins.ours, definition=definition)(**INPUTS))) - expected)
    figures = {"mean": np.mean, "p99": lambda difference: np.quantile(difference, 0.99), "max": np.max}
    print(f"{expected.size} log-probabilities: |bfloat16 - float32| in nats")
    for name, figure in figures.items():
        print(f"{name:5} ours {figure(ours):.4f}   transformers {figure(theirs):.4f}")
        assert figure(ours) <= figure(theirs)
    assert ours.mean() > 1e-4, "this was no bfloat16"
