"""The check of shapes: mismatches are named, with expected and actual shape or dtype."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from helpers.small import make_prompts

from r1vl_jax.arrays import Completions, TrainBatch, TrainRows, check_shapes


def make_batch() -> TrainBatch:
    completions = Completions(np.zeros((6, 4), np.int32), np.ones((6, 4), bool))
    logp_BT = np.zeros((6, 4), np.float32)
    return TrainBatch(make_prompts(3), TrainRows(completions, logp_BT, None, logp_BT))


def test_a_matching_bundle_is_returned():
    batch = make_batch()
    assert check_shapes(batch) is batch


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            {"advantage_BT": np.zeros(6, np.float32)},
            "TrainBatch.rows.advantage_BT: expected axes [B T], got shape (6,)",
        ),
        (
            {"advantage_BT": np.zeros((6, 4), np.int32)},
            "TrainBatch.rows.advantage_BT: expected Float values, got int32",
        ),
        (
            {"sampling_logp_BT": np.zeros((6, 5), np.float32)},
            "TrainBatch.rows.sampling_logp_BT: axis T is 5 here and 4 elsewhere (shape (6, 5))",
        ),
        (
            {"ref_logp_BT": np.zeros((5, 4), np.float32)},
            "TrainBatch.rows.ref_logp_BT: axis B is 5 here and 6 elsewhere (shape (5, 4))",
        ),
    ],
)
def test_mismatches_are_named(rows, text):
    batch = make_batch()
    with pytest.raises(ValueError, match="arrays do not match their annotations:\n  " + re.escape(text)):
        check_shapes(dataclasses.replace(batch, rows=dataclasses.replace(batch.rows, **rows)))


def test_a_number_in_an_annotation_is_a_size():
    prompts = make_prompts(3)
    mismatched = dataclasses.replace(prompts, position_3PS=prompts.position_3PS[:2])
    with pytest.raises(ValueError, match=re.escape("PromptBatch.position_3PS: axis 3 is 2 here and 3 elsewhere")):
        check_shapes(mismatched)


def test_abstract_arrays_are_checked():
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_batch())
    check_shapes(abstract)
