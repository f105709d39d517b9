"""Input pipelines: order, resuming, dropped records, supervised batches and evaluation."""

import itertools
import logging

import jax
import numpy as np
import pytest

from r1vl_jax.data.pipeline import Encoder, eval_batches, prompt_stream, supervised_stream


@pytest.fixture
def source(make_record):
    return [make_record(id=f"r-{number}", problem=f"<image>{'b' * number}") for number in range(6)]


def record_ids(stream, num_batches: int) -> list[list[str]]:
    return [[record.id for record in records] for records, _ in itertools.islice(stream, num_batches)]


def test_every_epoch_has_each_record_once_in_another_order(source, encoder):
    batches = record_ids(prompt_stream(source, encoder, batch_size=3, seed=0), 8)
    epochs = [batches[i] + batches[i + 1] for i in range(0, 8, 2)]
    assert all(sorted(epoch) == [record.id for record in source] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 2


def test_the_seed_decides_the_order(source, encoder):
    assert record_ids(prompt_stream(source, encoder, batch_size=6, seed=1), 2) == record_ids(
        prompt_stream(source, encoder, batch_size=6, seed=1), 2
    )
    assert record_ids(prompt_stream(source, encoder, batch_size=6, seed=1), 2) != record_ids(
        prompt_stream(source, encoder, batch_size=6, seed=2), 2
    )


@pytest.mark.parametrize("num_batches", [0, 1, 2, 5])
def test_a_resumed_stream_continues_the_sequence(source, encoder, num_batches):
    """Batches of 4 of 6 records, so that most positions are in the middle of an epoch."""
    stream = prompt_stream(source, encoder, batch_size=4, seed=0)
    record_ids(stream, num_batches)
    state = stream.get_state()
    expected = list(itertools.islice(stream, 4))
    resumed = prompt_stream(source, encoder, batch_size=4, seed=0)
    resumed.set_state(state)
    for (records, arrays), (expected_records, expected_arrays) in zip(
        itertools.islice(resumed, 4), expected, strict=True
    ):
        assert records == expected_records
        jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)


def test_a_resumed_stream_drops_what_it_dropped_before(source, make_record, encoder):
    source = [make_record(id="mute", answer=""), *source[:3]]
    stream = prompt_stream(source, encoder, batch_size=2, seed=0)
    record_ids(stream, 2)
    state, expected = stream.get_state(), record_ids(stream, 6)
    resumed = prompt_stream(source, encoder, batch_size=2, seed=0)
    resumed.set_state(state)
    assert record_ids(resumed, 6) == expected


def test_records_and_prompts_of_a_batch_belong_together(source, encoder):
    records, arrays = next(prompt_stream(source, encoder, batch_size=6, seed=0))
    lengths = [len(encoder.prompt(record).token_S) for record in records]
    assert len(set(lengths)) > 2
    np.testing.assert_array_equal(arrays.mask_PS.sum(axis=1), lengths)
    np.testing.assert_array_equal(arrays.prompt_id_P, np.arange(6))


def test_dropped_records_are_named_once_and_counted(source, make_record, encoder, caplog):
    source = [*source[:2], make_record(id="long", problem=f"<image>{'1' * 99}"), make_record(id="mute", answer="")]
    with caplog.at_level(logging.WARNING):
        batches = record_ids(prompt_stream(source, encoder, batch_size=2, seed=0), 4)
    assert [sorted(batch) for batch in batches] == [["r-0", "r-1"]] * 4
    assert encoder.dropped.keys() == {"long", "mute"}
    assert "at most max_prompt_length=64 fit" in encoder.dropped["long"]
    assert len(caplog.records) == 2
    assert "dropped (2 so far): record" in caplog.text


def test_a_source_without_usable_records_is_refused(make_record, encoder):
    source = [make_record(id=str(number), answer="") for number in range(3)]
    with pytest.raises(ValueError, match="none of 3 records can be used; the last: record '[0-2]': it has no answer"):
        next(prompt_stream(source, encoder, batch_size=2, seed=0))


def test_records_dropped_from_another_split_do_not_count(source, make_record, encoder):
    list(eval_batches([*source, *(make_record(id=f"test-{n}", answer="") for n in range(5))], encoder, batch_size=6))
    stream = prompt_stream([source[0], make_record(id="mute", answer="")], encoder, batch_size=1, seed=0)
    assert record_ids(stream, 3) == [["r-0"]] * 3
    assert len(encoder.dropped) == 6


def test_an_evaluation_without_usable_records_is_refused(make_record, encoder):
    with pytest.raises(ValueError, match="records to evaluate on can be used; the last: record .m.: it has no answer"):
        list(eval_batches([make_record(id="m", answer="")], encoder, batch_size=2))


def test_supervised_batches_have_the_response_and_the_end_of_turn(source, encoder, path):
    batch = next(supervised_stream(source, encoder, batch_size=4, seed=0, max_completion_length=64))
    tokenizer = encoder.processor.tokenizer
    token_BT, mask_BT = batch.completions.token_BT, batch.completions.mask_BT
    assert token_BT.shape == (4, 64)
    assert tokenizer.decode(token_BT[0][mask_BT[0]]) == path + "<|im_end|>"
    np.testing.assert_array_equal(mask_BT, np.arange(64) < mask_BT.sum(axis=1, keepdims=True))
    assert batch.prompts.token_PS.shape[0] == 4


def test_a_response_is_never_truncated(source, make_record, encoder, path):
    length = len(encoder.completion(source[0], max_completion_length=99))
    source = [source[0], make_record(id="long", response=path + "1"), make_record(id="none", response="")]
    stream = supervised_stream(source, encoder, batch_size=2, seed=0, max_completion_length=length)
    assert next(stream).completions.mask_BT.all()
    assert encoder.dropped["long"] == (
        f"record 'long': its response has {length + 1} tokens, at most max_completion_length={length} fit; raise it"
    )
    assert encoder.dropped["none"] == "record 'none': it has no response to train on"


def test_evaluation_reads_every_record_once_and_fills_the_last_batch(source, make_record, encoder):
    records = [*source[:3], make_record(id="mute", answer=""), *source[3:5]]
    batches = list(eval_batches(records, encoder, batch_size=3))
    assert [[record.id for record in rows] for rows, _ in batches] == [["r-0", "r-1", "r-2"], ["r-3", "r-4"]]
    _, last = batches[1]
    assert last.token_PS.shape[0] == 3
    np.testing.assert_array_equal(last.token_PS[2], last.token_PS[1])
    assert encoder.dropped.keys() == {"mute"}


def test_every_prompt_of_an_encoder_has_its_instruction(processor, make_record):
    encoder = Encoder(processor, max_prompt_length=64, prompt_bucket=16, patch_bucket=16, instruction="Think.")
    text = processor.tokenizer.decode(encoder.prompt(make_record()).token_S)
    assert "<|vision_end|>Think.\nWhat is the value?<|im_end|>" in text
