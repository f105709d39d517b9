"""Shards of several processes against the batch of one process; the other processes are mocked."""

import itertools

import numpy as np
import pytest

from r1vl_jax.data.pipeline import NoUsableRecords, eval_batches, pad_completions, prompt_stream
from r1vl_jax.data.process_shards import ProcessStream, to_global_width, to_process_shard
from r1vl_jax.runtime import processes


@pytest.fixture
def source(make_record):
    """Records of different lengths."""
    return [make_record(id=f"r-{n}", problem="<image>What is the value? " + "8 = 3 " * (n % 4)) for n in range(7)]


@pytest.fixture
def as_process(monkeypatch):
    """Mocks process index and count; `others` maps a value to what the other processes contribute to a gather."""

    def pretend(index: int, count: int, others=lambda value: value):
        def gather(value):
            return [value if process == index else others(value) for process in range(count)]

        monkeypatch.setattr(processes, "count", lambda: count)
        monkeypatch.setattr(processes, "index", lambda: index)
        monkeypatch.setattr(processes, "all_gather_objects", gather)

    return pretend


def test_processes_interleave_the_records_of_a_single_process(source, encoder, as_process):
    def record_ids(batch_size: int) -> list[str]:
        stream = prompt_stream(source, encoder, batch_size=batch_size, seed=3)
        return [record.id for records, _ in itertools.islice(stream, 5) for record in records]

    alone, shards = record_ids(4), []
    for process in range(2):
        as_process(process, 2)
        shards.append(record_ids(2))
    assert alone == [record for pair in zip(*shards, strict=True) for record in pair]


def test_a_shard_indexes_its_own_features_and_has_global_prompt_ids(source, encoder, as_process):
    """The second of two processes, with shards 1 and 2 of four, each of two rows of packed patches."""
    encoder._buckets["vision_shards"] = 4
    local = encoder.batch([encoder.prompt(record) for record in source[1:5]])
    width, num_patches = local.token_PS.shape[1] + 16, local.vision.segment_ZM.shape[1] + 32
    as_process(1, 2, others=lambda sizes: (width, num_patches))
    shard = to_process_shard(local, own_shards=[1, 2])
    assert shard.token_PS.shape[1] == width
    assert shard.vision.segment_ZM.shape == (4, num_patches)
    assert shard.prompt_id_P.tolist() == [1, 3, 5, 7]
    np.testing.assert_array_equal(shard.token_PS[shard.mask_PS], local.token_PS[local.mask_PS])
    np.testing.assert_array_equal(shard.position_3PS[:, shard.mask_PS], local.position_3PS[:, local.mask_PS])
    global_ZMC = np.zeros((8, num_patches, 1176), np.float32)
    global_ZMC[2:6] = shard.vision.patch_ZMC
    features = [
        patch_ZMC.reshape(-1, 4, 1176)[prompts.feature_index_PS[prompts.feature_index_PS >= 0]]
        for patch_ZMC, prompts in ((local.vision.patch_ZMC, local), (global_ZMC, shard))
    ]
    np.testing.assert_array_equal(*features)
    assert (shard.vision.segment_ZM > 0).sum() == (local.vision.segment_ZM > 0).sum()


def test_a_stream_resumes_each_process_at_its_own_state(source, encoder, as_process):
    def stream() -> ProcessStream:
        return ProcessStream(prompt_stream(source, encoder, batch_size=2, seed=0), lambda batch: batch[0])

    as_process(1, 2, others=lambda state: "of the first")
    first = stream()
    next(first)
    states = first.get_state()
    assert states[0] == "of the first"
    resumed = stream()
    resumed.set_state(states)
    assert [record.id for record in next(resumed)] == [record.id for record in next(first)]
    as_process(1, 3)
    with pytest.raises(
        ValueError, match="a run with 2 processes, .* this one has 3. Start as many as before, or choose"
    ):
        resumed.set_state(states)


def test_completions_are_as_wide_as_the_widest_of_any_process(as_process):
    completions = pad_completions([np.arange(3), np.arange(2)], 4)
    as_process(0, 2, others=lambda sizes: (7,))
    padded = to_global_width(completions)
    assert padded.token_BT.tolist() == [[0, 1, 2, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]
    assert padded.mask_BT.sum(axis=1).tolist() == [3, 2]
    as_process(1, 2, others=lambda sizes: (2,))
    assert to_global_width(completions).token_BT.shape == (2, 4)


def test_a_process_without_records_evaluates_as_many_batches_as_the_others(source, encoder, as_process):
    left = iter([1, 0])
    as_process(2, 3, others=lambda number: next(left, 0))
    batches = list(eval_batches(source, encoder, batch_size=2, num_records=2))
    assert [records for records, _ in batches] == [[]]
    assert batches[0][1].token_PS.shape[0] == 2


def test_every_process_refuses_a_source_without_usable_records(make_record, encoder, as_process):
    """By itself, before the processes wait for each other."""
    source = [make_record(id=f"r-{number}", answer="") for number in range(5)]
    for process in range(3):
        as_process(process, 3, others=lambda value: pytest.fail("waits for other processes"))
        with pytest.raises(NoUsableRecords, match="none of 5 records can be used"):
            prompt_stream(source, encoder, batch_size=2, seed=0)
        with pytest.raises(NoUsableRecords, match="none of 5 records can be used"):
            list(eval_batches(source, encoder, batch_size=2))
