"""Chat templates that know pictures and others, what ends a turn, and what ends a completion."""

import copy
import json

import pytest
from helpers.templates import PUBLISHED

from r1vl_jax.data.chat_format import end_of_turn_id, eos_token_ids, template_fault

# Of a language model: the content is a string.
OF_TEXT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def with_template(tokenizer):
    def make(template, **attributes):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        for name, value in attributes.items():
            setattr(changed, name, value)
        return changed

    return make


def test_templates_that_know_pictures_have_no_fault(tokenizer, with_template):
    assert template_fault(tokenizer) is None
    assert template_fault(with_template(PUBLISHED)) is None


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (None, "there is none"),
        ("", "there is none"),
        (OF_TEXT, "it fails on a turn with pictures (TypeError: can only concatenate str"),
        ("{% for", "it fails on a turn with pictures (TemplateSyntaxError: "),
        ("{{ raise_exception('no pictures') }}", "it fails on a turn with pictures (TemplateError: no pictures)"),
        ("{{ messages[0].content }}", "it knows no pictures: a turn with two of them has 0 <|image_pad|>"),
        ("{% for m in messages %}<|image_pad|>{% endfor %}", "a turn with two of them has 1 <|image_pad|>"),
        ("{% for p in messages[0].content %}<|image_pad|>{% endfor %}", "a turn with two of them has 3 <|image_pad|>"),
        (
            "{% for p in messages[0].content %}{% if p.type == 'image' %}<|image_pad|>{% endif %}{% endfor %}",
            "it leaves out the text of a turn with pictures",
        ),
    ],
)
def test_a_template_that_cannot_write_pictures_has_a_fault(with_template, template, fault):
    assert fault in template_fault(with_template(template))


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (PUBLISHED, "<|im_end|>", "<|im_end|>"),
        (PUBLISHED, "<|endoftext|>", "<|im_end|>"),  # the tokenizer of a base model
        (OF_TEXT.replace("<|im_end|>", "<|endoftext|>"), "<|im_end|>", "<|im_end|>"),  # fails on pictures
        (PUBLISHED.replace("<|im_end|>", "<|endoftext|>"), "<|im_end|>", "<|endoftext|>"),
        (PUBLISHED.replace("<|im_end|>", ""), "<|im_end|>", "<|im_end|>"),
        (None, "<|im_end|>", "<|im_end|>"),
        (None, "<|endoftext|>", "<|endoftext|>"),
        (None, None, "<|endoftext|>"),
    ],
)
def test_a_turn_ends_as_in_the_template(with_template, template, eos, expected):
    changed = with_template(template, eos_token=eos)
    assert changed.convert_ids_to_tokens(end_of_turn_id(changed)) == expected


def test_a_response_is_taught_with_the_end_of_its_turn(with_template, encoder, make_record):
    encoder = type(encoder)(
        type(encoder.processor)(with_template(PUBLISHED, eos_token="<|endoftext|>"), encoder.processor.image_processor),
        max_prompt_length=64,
        prompt_bucket=16,
        patch_bucket=16,
    )
    token_T = encoder.completion(make_record(response="8"), max_completion_length=8)
    assert encoder.processor.tokenizer.convert_ids_to_tokens(token_T) == ["8", "<|im_end|>"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (["<|im_end|>", "<|endoftext|>"], ["<|im_end|>", "<|endoftext|>"]),
        (["<|endoftext|>", "<|im_end|>"], ["<|im_end|>", "<|endoftext|>"]),
        ("<|endoftext|>", ["<|im_end|>", "<|endoftext|>"]),
        (["<|endoftext|>"], ["<|im_end|>", "<|endoftext|>"]),
        ("<|im_end|>", ["<|im_end|>"]),
        (None, ["<|im_end|>", "<|endoftext|>"]),
    ],
)
def test_a_completion_ends_at_the_end_of_a_turn_and_at_those_of_the_generation_config(
    tokenizer, tmp_path, stated, expected
):
    eos = None if stated is None else tokenizer.convert_tokens_to_ids(stated)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert tokenizer.convert_ids_to_tokens(eos_token_ids(tokenizer, tmp_path)) == expected


def test_every_end_is_taken(with_template, tmp_path):
    changed = with_template(PUBLISHED, eos_token="<|endoftext|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert eos_token_ids(changed, tmp_path) == [*changed.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]), 7]


def test_without_a_generation_config_the_end_tokens_are_the_tokenizers(tokenizer, tmp_path):
    expected = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert eos_token_ids(tokenizer, tmp_path) == eos_token_ids(tokenizer) == expected
