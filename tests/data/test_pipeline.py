"""Input pipelines: order, resuming, dropped records, supervised batches and evaluation."""

import itertools
import logging

import jax
import numpy as np
import pytest

from r1vl_jax.data.pipeline import Encoder, NoUsableRecords, eval_batches, prompt_stream, supervised_stream
from r1vl_jax.data.records import UnusableRecord
from r1vl_jax.data.tokenizer import SPECIAL_TOKENS


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


def test_open_ended_responses_are_for_supervised_stages_alone(source, make_record, encoder):
    """A record without an answer, among others: trained on, and neither sampled for nor evaluated."""
    source = [*source[:2], make_record(id="open", answer="")]
    batch = next(supervised_stream(source, encoder, batch_size=3, seed=0, max_completion_length=64))
    assert batch.completions.token_BT.shape[0] == 3
    assert encoder.dropped == {}
    assert sorted(record_ids(prompt_stream(source, encoder, batch_size=2, seed=0), 1)[0]) == ["r-0", "r-1"]
    assert [[each.id for each in records] for records, _ in eval_batches(source, encoder, batch_size=3)] == [
        ["r-0", "r-1"]
    ]
    assert encoder.dropped == {"open": "record 'open': it has no answer"}


@pytest.mark.parametrize(("bucket", "width"), [(0, 64), (8, 16), (15, 15), (40, 40), (100, 64)])
def test_responses_are_padded_to_a_multiple_of_the_bucket(make_record, encoder, bucket, width):
    """The longest has 9 tokens, the end of the turn included; at most 64 are allowed."""
    source = [make_record(id=f"r-{n}", response="1" * n) for n in (3, 8)]
    stream = supervised_stream(
        source, encoder, batch_size=2, seed=0, max_completion_length=64, completion_bucket=bucket
    )
    completions = next(stream).completions
    assert completions.token_BT.shape == completions.mask_BT.shape == (2, width)
    assert sorted(completions.mask_BT.sum(axis=1)) == [4, 9]


def test_texts_alone_and_pictures_share_a_batch(make_record, encoder):
    text = make_record(id="text", images=(), problem="What is the value?")
    ((records, prompts),) = eval_batches([text, make_record(id="picture")], encoder, batch_size=2)
    assert [record.id for record in records] == ["text", "picture"]
    assert (prompts.feature_index_PS >= 0).sum(axis=1).tolist() == [0, 2]
    ((_, alone),) = eval_batches([text], encoder, batch_size=1)
    assert not alone.vision.segment_ZM.any()


STREAMS = {
    "prompts": lambda source, encoder: next(prompt_stream(source, encoder, batch_size=2, seed=0)),
    "supervised": lambda source, encoder: next(
        supervised_stream(source, encoder, batch_size=2, seed=0, max_completion_length=64)
    ),
    "evaluation": lambda source, encoder: list(eval_batches(source, encoder, batch_size=2)),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_source_without_usable_records_is_refused_with_the_counts_of_reasons(make_record, encoder, stream):
    """Equal ids, as another program may write them, among the records."""
    source = [make_record(id="same", answer="", response="")] * 3 + [
        make_record(id=f"long {n}", problem=f"<image>{'1' * n}") for n in (80, 95)
    ]
    with pytest.raises(NoUsableRecords) as error:
        STREAMS[stream](source, encoder)
    first, *counts = str(error.value).splitlines()
    assert first.startswith("none of 5 records can be used; the last: record 'long 95': its prompt has 1")
    assert counts == [
        "  3 x it has no answer, and no response to train on",
        "  2 x its prompt has ... tokens, ... of them for images and videos; at most max_prompt_length=... fit; raise"
        " it, or lower max_pixels",
    ]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_source_without_records_is_refused(encoder, stream):
    with pytest.raises(NoUsableRecords, match="there are no records"):
        STREAMS[stream]([], encoder)


def test_reasons_that_differ_in_particulars_are_counted_together(make_record, encoder):
    source = [make_record(id=str(n), images=(b"junk" * n,)) for n in range(1, 4)]
    source += [make_record(id=str(n), answer=n) for n in range(2)]
    with pytest.raises(NoUsableRecords) as error:
        next(prompt_stream(source, encoder, batch_size=2, seed=0))
    counts = [line.split()[0] for line in str(error.value).splitlines()[1:]]
    assert counts == ["3", "2"]


def test_records_of_one_id_are_dropped_one_by_one(source, make_record, encoder):
    source = [make_record(id="same", answer=""), make_record(id="same"), make_record(id="same", answer="")]
    assert record_ids(prompt_stream(source, encoder, batch_size=2, seed=0), 5) == [["same", "same"]] * 5


def test_a_record_that_cannot_be_read_is_dropped(source, encoder):
    class Rows(list):
        def __getitem__(self, index):
            if index == 1:
                raise UnusableRecord("train[1]", "field 'answer': expected text, got 5 (int)")
            return super().__getitem__(index)

    assert sorted(record_ids(prompt_stream(Rows(source[:3]), encoder, batch_size=2, seed=0), 1)[0]) == ["r-0", "r-2"]
    assert [len(rows) for rows, _ in eval_batches(Rows(source[:3]), encoder, batch_size=4)] == [2]
    assert encoder.dropped == {"train[1]": "record 'train[1]': field 'answer': expected text, got 5 (int)"}


def test_records_dropped_from_another_split_do_not_count(source, make_record, encoder):
    list(eval_batches([*source, *(make_record(id=f"test-{n}", answer="") for n in range(5))], encoder, batch_size=6))
    stream = prompt_stream([source[0], make_record(id="mute", answer="")], encoder, batch_size=1, seed=0)
    assert record_ids(stream, 3) == [["r-0"]] * 3
    assert len(encoder.dropped) == 6


def test_supervised_batches_have_the_response_and_the_end_of_turn(source, encoder, path):
    batch = next(supervised_stream(source, encoder, batch_size=4, seed=0, max_completion_length=64))
    tokenizer = encoder.processor.tokenizer
    token_BT, mask_BT = batch.completions.token_BT, batch.completions.mask_BT
    assert token_BT.shape == (4, 64)
    assert tokenizer.decode(token_BT[0][mask_BT[0]]) == path + "<|im_end|>"
    np.testing.assert_array_equal(mask_BT, np.arange(64) < mask_BT.sum(axis=1, keepdims=True))
    assert batch.prompts.token_PS.shape[0] == 4


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_in_a_response_stay_text(make_record, encoder, token):
    response = f"Say {token}8.{token}"
    tokenizer = encoder.processor.tokenizer
    token_T = encoder.completion(make_record(response=response), max_completion_length=64)
    assert token_T[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(token_T[:-1]) == response
    assert not set(token_T[:-1]) & set(tokenizer.added_tokens_decoder)


def test_a_response_of_another_type_is_named(make_record, encoder):
    with pytest.raises(UnusableRecord, match=r"record 'r-0': field 'response': expected text \(str\), got None"):
        encoder.completion(make_record(response=None), max_completion_length=64)


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
