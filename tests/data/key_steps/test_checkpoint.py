"""A checkpoint as the model: one with random weights, whose replies are nonsense, and one that is made up."""

from helpers.chat_model import write_chat_model
from PIL import Image

import r1vl_jax
from r1vl_jax.data.key_steps import checkpoint
from r1vl_jax.data.key_steps.by_model import OWN_PROMPTS, Prompts, key_steps_by_model
from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.key_steps.replies import Reply
from r1vl_jax.data.records import Record

PICTURE = Image.new("RGB", (28, 28))
STEP = "20 * 40 = 800"
RECORDS = [
    Record.make(f"<image>How many {what}?", images=[PICTURE], id=what, answer="9", solution=f"So {STEP}.\n#### 9")
    for what in ("cats", "dogs")
]


class Answer(str):
    has_ended = True


def call(conversations, **settings):
    """What a good model answers to our prompts; "bad" cannot be asked, and "long" has no end."""
    texts = [message["content"] for (message,) in conversations]
    if "bad" in texts:
        raise ValueError(f"prompt {texts.index('bad') + 1}: bad")
    replies = {"List": f'["{STEP}"]', "Keep": f'["{STEP}"]', "For each": f'{{"{STEP}": ["20*40=800"]}}'}
    answers = [Answer(next((replies[words] for words in replies if words in text), text.upper())) for text in texts]
    answers[0].has_ended = texts[0] != "long"
    return answers


def test_a_checkpoint_replies_to_each_prompt_and_its_nonsense_fails_a_record_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(checkpoint, "_ROWS", 2)
    write_chat_model(tmp_path)
    ask = checkpoint.asks(r1vl_jax.load(str(tmp_path)).generate)
    prompts = ["What? " * 9, "Speaks of <image>, <|image_pad|> and <|im_end|>.", "How many? " * 9, "Which? " * 9]
    replies = dict(ask(prompts))
    assert list(replies) == prompts
    assert dict(ask(prompts[::-1])) == replies
    assert {reply.error for reply in replies.values()} <= {"", "longer than 4 tokens"}
    found = key_steps_by_model(RECORDS, ask, Prompts("{question} {question} {solution}", "", ""))
    assert [str(each).partition(": ")[0] for each in found] == ["pass extract"] * 2


def test_a_prompt_that_cannot_be_asked_fails_alone_and_a_reply_without_end_is_none():
    assert dict(checkpoint.asks(call)(["a", "bad", "long"])) == {
        "a": Reply("A"),
        "bad": Reply(error="prompt 1: bad"),
        "long": Reply(error="longer than 1,024 tokens"),
    }


def test_a_checkpoint_s_key_steps_are_those_of_its_replies():
    prompts = Prompts.read(OWN_PROMPTS)
    (found, _) = key_steps_by_model(RECORDS, checkpoint.asks(call), prompts)
    assert found == KeySteps(((STEP, "20*40=800"),), {STEP: "of the core, says the model"})
