"""Shares of several processes beside the batch of one; the other processes are made up."""

import itertools

import numpy as np
import pytest

from r1vl_jax.data.pipeline import eval_batches, prompt_stream
from r1vl_jax.data.process_shards import ProcessStream, to_global_batch
from r1vl_jax.runtime import processes


@pytest.fixture
def source(make_record):
    """Records of different pictures and lengths."""
    return [make_record(id=f"r-{n}", problem="<image>What is the value? " + "8 = 3 " * (n % 4)) for n in range(7)]


@pytest.fixture
def as_process(monkeypatch):
    """This process is one of some; what the others give to be gathered is said by the test, or is the same."""

    def pretend(index: int, count: int, others=lambda value: value):
        def gather(value):
            return [value if process == index else others(value) for process in range(count)]

        monkeypatch.setattr(processes, "count", lambda: count)
        monkeypatch.setattr(processes, "index", lambda: index)
        monkeypatch.setattr(processes, "all_gather_objects", gather)

    return pretend


def test_processes_take_turns_at_the_records_of_one(source, encoder, as_process):
    def drawn(batch_size: int) -> list[str]:
        stream = prompt_stream(source, encoder, batch_size=batch_size, seed=3)
        return [record.id for records, _ in itertools.islice(stream, 5) for record in records]

    alone, shares = drawn(4), []
    for process in range(2):
        as_process(process, 2)
        shares.append(drawn(2))
    assert alone == [record for pair in zip(*shares, strict=True) for record in pair]


def test_a_share_points_at_its_own_pictures_and_numbers_its_prompts(source, encoder, as_process):
    """The second of two processes, which holds the second and third of four shards, of two rows of pictures each."""
    encoder._buckets["vision_shards"] = 4
    own = encoder.batch([encoder.prompt(record) for record in source[1:5]])
    width, num_patches = own.token_PS.shape[1] + 16, own.vision.segment_ZM.shape[1] + 32
    as_process(1, 2, others=lambda sizes: (width, num_patches))
    share = to_global_batch(own, own_shards=[1, 2])
    assert share.token_PS.shape[1] == width
    assert share.vision.segment_ZM.shape == (4, num_patches)
    assert share.prompt_id_P.tolist() == [1, 3, 5, 7]
    np.testing.assert_array_equal(share.token_PS[share.mask_PS], own.token_PS[own.mask_PS])
    np.testing.assert_array_equal(share.position_3PS[:, share.mask_PS], own.position_3PS[:, own.mask_PS])
    of_all_ZMC = np.zeros((8, num_patches, 1176), np.float32)
    of_all_ZMC[2:6] = share.vision.patch_ZMC
    features = [
        patch_ZMC.reshape(-1, 4, 1176)[prompts.feature_index_PS[prompts.feature_index_PS >= 0]]
        for patch_ZMC, prompts in ((own.vision.patch_ZMC, own), (of_all_ZMC, share))
    ]
    np.testing.assert_array_equal(*features)
    assert (share.vision.segment_ZM > 0).sum() == (own.vision.segment_ZM > 0).sum()


def test_a_stream_goes_on_where_each_process_was(source, encoder, as_process):
    def stream() -> ProcessStream:
        return ProcessStream(prompt_stream(source, encoder, batch_size=2, seed=0), lambda batch: batch[0])

    as_process(1, 2, others=lambda state: "of the first")
    first = stream()
    next(first)
    positions = first.get_state()
    assert positions[0] == "of the first"
    resumed = stream()
    resumed.set_state(positions)
    assert [record.id for record in next(resumed)] == [record.id for record in next(first)]
    as_process(1, 3)
    with pytest.raises(ValueError, match="a run with 2 processes, .* this one has 3. Start as many as then, or choose"):
        resumed.set_state(positions)


def test_a_process_without_records_to_evaluate_on_keeps_step_with_the_others(source, encoder, as_process):
    left = iter([1, 0])
    as_process(2, 3, others=lambda number: next(left, 0))
    batches = list(eval_batches(source, encoder, batch_size=2, num_records=2))
    assert [records for records, _ in batches] == [[]]
    assert batches[0][1].token_PS.shape[0] == 2
