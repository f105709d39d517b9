"""The loop with tools: what it asks, what it makes of calls, and why it ends, with turns written by the test."""

import copy
import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from helpers.chat_model import write_chat_model
from PIL import Image

from r1vl_jax.chat.prompter import load_prompter
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.prompts import EncodedPrompt, conversation
from r1vl_jax.data.records import Record
from r1vl_jax.tools.crop import crop
from r1vl_jax.tools.loop import ToolLoop
from r1vl_jax.training.multi_turn import Turn

RECORD = Record.make(
    "<image>What is it?", images=[Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")], answer="2"
)
DOUBLE = '<tool_call>\n{"name": "double", "arguments": {"number": 4}}\n</tool_call>'
HALF = '<tool_call>{"name": "crop", "arguments": {"left": 0.5, "top": 0, "right": 1, "bottom": 0.5}}</tool_call>'


@pytest.fixture(scope="module")
def prompter(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    write_chat_model(directory)
    return load_prompter(directory)


class Script:
    """A policy whose turns are given; keeps the conversations that it was asked."""

    num_generations = 1

    def __init__(self, prompter, *texts: str, max_length: int = 10_000):
        self.prompter, self.texts, self.max_length, self.asked = prompter, list(texts), max_length, []

    def conversation(self, record):
        return conversation(record)

    def encode(self, asked) -> EncodedPrompt:
        prompt = self.prompter.encode(asked)
        if len(prompt.token_S) > self.max_length:
            raise ValueError("too long")
        self.asked.append(asked)
        return prompt

    def sample(self, prompts: Sequence[EncodedPrompt]) -> list[Turn]:
        texts = [self.texts.pop(0) for _ in prompts]
        return [
            Turn(prompt, np.zeros(1, np.int32), np.zeros(1, np.float32), text, has_ended=True)
            for prompt, text in zip(prompts, texts, strict=True)
        ]


def text_of(turn) -> str:
    parts = turn["content"]
    return parts if isinstance(parts, str) else "".join(part.get("text", "<image>") for part in parts)


def roll_out(script: Script, *, tools=("helpers.my_tools:double", "r1vl_jax.tools.crop:crop"), **settings):
    (episode,) = ToolLoop(tools, **settings)([RECORD], script)
    return episode


def test_it_calls_until_there_is_an_answer(prompter):
    script = Script(prompter, f"Let me see. {DOUBLE}", "It is 8.")
    episode = roll_out(script)
    assert [turn.text for turn in episode.turns] == [f"Let me see. {DOUBLE}", "It is 8."]
    assert (episode.ended, episode.metrics) == ("answered", {"tool_calls": 1.0, "tool_failures": 0.0})
    system, question, written, result = map(text_of, script.asked[1].turns)
    assert question == "<image>What is it?"
    assert written == f"Let me see. {DOUBLE}"
    assert result == "<tool_response>\n8\n</tool_response>\n"
    described = [json.loads(line) for line in system.split("<tools>\n")[1].split("\n</tools>")[0].split("\n")]
    assert [each["name"] for each in described] == ["double", "crop"]
    assert "images" not in described[1]["parameters"]["properties"]


def test_the_policy_sees_the_part_of_the_picture_that_it_asked_for(prompter):
    script = Script(prompter, HALF, "A cell.")
    episode = roll_out(script)
    first, second = episode.turns
    part = script.asked[1].images[1]
    picture = script.asked[0].images[0]
    assert part.size == (448, 448)
    np.testing.assert_array_equal(part, picture.crop((32, 0, 64, 32)).resize((448, 448), Image.Resampling.BICUBIC))
    assert (len(first.prompt.images), len(second.prompt.images)) == (1, 2)
    assert second.prompt.images[1][1] == (1, 32, 32)  # patches of 14 pixels


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("{not json}", "expected JSON in <tool_call>, got '{not json}'"),
        ("[" * 5000, "expected JSON in <tool_call>, got '[[["),
        ("[1]", 'expected {"name": NAME, "arguments": {...}} with a name of double'),
        ('{"name": "rm"}', "with a name of double"),
        ('{"name": "double", "arguments": {"x": 1}}', "double: expected arguments number, got {'x': 1}"),
        ('{"name": "double", "arguments": 3}', "double: expected arguments number, got 3"),
        ('{"name": "double", "arguments": {"number": null}}', "TypeError"),
        ('{"name": "crop", "arguments": {"left": 2, "top": 0, "right": 1, "bottom": 1}}', "got left=2"),
    ],
)
def test_a_call_that_cannot_be_made_gets_the_reason(prompter, call, reason):
    script = Script(prompter, f"<tool_call>{call}</tool_call>", "Then 2.")
    episode = roll_out(script, failure_reward=-0.5)
    result = text_of(script.asked[1].turns[-1])
    assert result.startswith("<tool_response>\nerror: ")
    assert reason in result
    assert (episode.turn_rewards, episode.ended) == ((-0.5, 0.0), "answered")
    assert episode.metrics["tool_failures"] == 1


def test_a_call_that_is_cut_off_is_a_call_and_few_are_made_at_a_time(prompter):
    cut = DOUBLE.removesuffix("\n</tool_call>")
    assert roll_out(Script(prompter, cut, "8.")).metrics == {"tool_calls": 1.0, "tool_failures": 0.0}
    assert roll_out(Script(prompter, DOUBLE * 20, "8.")).metrics["tool_calls"] == 8


def test_a_failure_is_rewarded_once_a_turn(prompter):
    bad = "<tool_call>x</tool_call>"
    assert roll_out(Script(prompter, bad * 3, "2."), failure_reward=-0.5).turn_rewards == (-0.5, 0.0)


def test_the_system_prompt_of_a_record_stays(prompter):
    script = Script(prompter, "2.")
    record = dataclasses.replace(RECORD, system="Be brief.")
    ToolLoop(["helpers.my_tools:double"])([record], script)
    system, _ = script.asked[0].turns
    assert text_of(system).startswith("Be brief.\n\nBefore you answer")


def test_tags_of_tools_are_the_tokens_that_a_model_has_for_them(prompter):
    """As Qwen2.5-VL has; in the texts of users and in what tools say about other tags they are words."""
    tokenizer = copy.deepcopy(prompter.processor.tokenizer)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    processor = Processor(tokenizer, prompter.processor.image_processor)
    other = dataclasses.replace(prompter, processor=processor)
    id_of = tokenizer.get_vocab()
    script = Script(other, f"{DOUBLE} <|im_end|>", "8.")
    ToolLoop(["helpers.my_tools:double"])([dataclasses.replace(RECORD, problem="<image>A <tool_call>?")], script)
    before, after = (other.encode(asked).token_S.tolist() for asked in script.asked)
    assert before.count(id_of["<tool_call>"]) == 1  # of the introduction, and not of the question
    assert after.count(id_of["<tool_call>"]) == 2
    assert after.count(id_of["<|im_end|>"]) == before.count(id_of["<|im_end|>"]) + 2  # two turns more


def test_several_calls_of_a_turn_are_answered_in_order(prompter):
    script = Script(prompter, f"{DOUBLE}{HALF}{DOUBLE.replace('4', '5')}", "Done.")
    roll_out(script)
    assert text_of(script.asked[1].turns[-1]) == (
        "<tool_response>\n8\n</tool_response>\n<tool_response>\n<image>\n</tool_response>\n"
        "<tool_response>\n10\n</tool_response>\n"
    )


def test_it_ends_at_the_most_turns_and_at_the_longest_prompt(prompter):
    assert roll_out(Script(prompter, *[DOUBLE] * 3), max_turns=2).ended == "limit"
    first = len(roll_out(Script(prompter, "2")).turns[0].prompt.token_S)
    episode = roll_out(Script(prompter, HALF, "unasked", max_length=first + 50))
    assert (episode.ended, len(episode.turns)) == ("prompt", 1)


def test_placeholders_that_a_policy_or_a_tool_writes_are_words(prompter):
    script = Script(prompter, f"<image> {DOUBLE}", "<image>")
    roll_out(script)
    assert len(script.asked[1].images) == 1


@pytest.mark.parametrize(
    ("tools", "settings", "message"),
    [
        (["helpers.my_tools:undescribed"], {}, "docstring"),
        (["helpers.my_tools:absent"], {}, "has no attribute 'absent'"),
        (["helpers.my_tools"], {}, "module:function"),
        ([], {}, "tools: expected a list"),
        ("helpers.my_tools:double", {}, "tools: expected a list, as .*, got 'helpers.my_tools:double'"),
        (["helpers.my_tools:double", "helpers.my_tools:double"], {}, "names of their own"),
        (["helpers.my_tools:double"], {"max_turns": 0}, "whole numbers of at least 1, got {'max_turns': 0}"),
        (["helpers.my_tools:double"], {"max_turns": 2.5}, "whole numbers"),
        (["helpers.my_tools:double"], {"failure_reward": float("nan")}, "a finite failure_reward"),
        (["helpers.my_tools:double"], {"timeout_s": float("inf")}, "timeout_s above 0"),
    ],
)
def test_tools_that_cannot_be_used_are_refused(tools, settings, message):
    with pytest.raises(ValueError, match=message):
        ToolLoop(tools, **settings)


def test_a_narrow_part_is_at_least_a_pixel():
    picture = Image.new("RGB", (20, 20))
    assert crop(0.0, 0.5, 0.001, 0.501, [picture]).size == (448, 448)
    assert crop(0.0, 0.0, 1.0, 0.5, [picture]).size == (448, 224)
